"""Markdown to HTML. HTML in a page is shown as text, never interpreted.

The library takes 15 ms to import and about as long for a page of 50 kB, so it is imported at the first call, and all
calls are made in a thread.
"""

import re
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

from streamer.docs import SUFFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markdown_it import MarkdownIt
    from markdown_it.token import Token

PAGE_LINK = re.compile(rf"((?:docs/)?[a-z-]+){re.escape(SUFFIX)}(#.*)?")


def to_html(text: str) -> str:
    """Every heading gets the anchor that GitHub gives it, and a link to the file of a page becomes one to its URL."""
    renderer = _renderer()
    tokens = renderer.parse(text)
    _add_anchors(tokens)
    _rewrite_links(tokens)
    html: str = renderer.renderer.render(tokens, renderer.options, {})
    return html


def anchor(heading: str) -> str:
    """Returns the anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@cache
def _renderer() -> "MarkdownIt":
    from markdown_it import MarkdownIt  # noqa: PLC0415 - see above

    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _add_anchors(tokens: "Sequence[Token]") -> None:
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            texts = [token.content for token in inline.children or () if token.type in {"text", "code_inline"}]
            opening.attrSet("id", anchor("".join(texts)))


def _rewrite_links(tokens: "Sequence[Token]") -> None:
    for token in tokens:
        for child in token.children or ():
            if child.type == "link_open" and (found := PAGE_LINK.fullmatch(str(child.attrGet("href")))):
                child.attrSet("href", found[1] + (found[2] or ""))
