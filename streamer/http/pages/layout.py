"""The frame of every page, and the header fields that keep scripts and other hosts out."""

from base64 import b64encode
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template

ROOM = files("streamer.http.pages")


def html_page(*, title: str, navigation: dict[str, str], content: str) -> str:
    """Returns a whole document. `navigation` has a relative URL for each text; `content` is HTML."""
    links = "\n".join(f'<a href="{escape(url)}">{escape(text)}</a>' for text, url in navigation.items())
    return _template().substitute(title=escape(title), style=_style(), navigation=links, content=content)


@cache
def security_headers() -> dict[str, str]:
    """Only the style of the page itself is allowed, by its hash (CSP Level 3, 2.3.1)."""
    digest = b64encode(sha256(_style().encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


@cache
def _template() -> Template:
    return Template(ROOM.joinpath("page.html").read_text(encoding="utf-8"))


@cache
def _style() -> str:
    return ROOM.joinpath("style.css").read_text(encoding="utf-8")
