"""Which redirections are followed (RFC 9110, 15.4): only those that keep the meaning of the request.

A GET may be redirected to any URL, but not from https to http. Any other request is redirected only within its origin
and with its method and body: a POST that is repeated as a GET, as browsers and aiohttp do after a 301 or 302, would
export every row of the default dataset, and another origin may not know the filters of the request.
"""

from yarl import URL

from streamer.client.errors import Refused
from streamer.errors import shown

REDIRECTIONS = frozenset({301, 302, 303, 307, 308})
METHOD_KEPT = frozenset({307, 308})
MAX_URL = 200  # characters of a URL that a sentence shows


def redirect_target(method: str, url: URL, status: int, location: str | None) -> URL:
    """Returns the URL of the next request. Raises Refused for a redirection that is not followed; it names the URL."""
    new = _absolute(url, location)
    if url.scheme == "https" and new.scheme == "http":
        raise Refused(f"{shown_url(url)} redirects to {shown_url(new)}, which is not encrypted")
    same = origin(new) == origin(url)
    if method != "GET" and not (same and status in METHOD_KEPT):
        raise Refused(
            f"{shown_url(url)} redirects to {shown_url(new)}; a {method} is not redirected, so use that address"
        )
    return new.with_user(url.user).with_password(url.password) if same and url.user else new


def origin(url: URL) -> tuple[str, str | None, int | None]:
    """RFC 6454, 4: the port defaults to that of the scheme."""
    return url.scheme, url.host, url.port


def shown_url(url: URL) -> str:
    """Returns the URL for a sentence, without user and password."""
    return shown(str(url.with_user(None)), MAX_URL)


def _absolute(url: URL, location: str | None) -> URL:
    """RFC 9110, 10.2.2."""
    try:
        new = url.join(URL(location or ""))
        if location and new.scheme in ("http", "https") and new.host and new.port is not None:
            return new
    except ValueError:
        pass
    raise Refused(f"{shown_url(url)} redirects to {shown(location or 'nothing')}, which is not a URL")
