"""The commands of the client: pull, export, ls, status, cancel, rm, and docs. They import the client, never the server.

A shell waits for `streamer --help` and for every completion, so these modules import only click at the top. The client
and rich are imported by the functions that use them.
"""
