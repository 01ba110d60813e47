"""Pages for people: the entry page at / and the documentation at /docs.

They are plain HTML: no script, and nothing from another host. Every link is relative to the URL of its page, so it is
right behind a proxy that strips a prefix of the path.
"""
