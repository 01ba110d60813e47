"""Where a redirection may lead (RFC 9110, 15.4): only to what asks for the same.

A GET may be led anywhere, but not from https to http. Any other request keeps its method and its body, at the same
origin, or is not sent: to repeat a POST as a GET, as browsers and aiohttp do after a 301 or 302, would be to ask for
every row of the default dataset, and another origin is none that the conditions of the request were written for.
"""

from yarl import URL

from streamer.client.errors import Refused
from streamer.errors import shown

REDIRECTIONS = frozenset({301, 302, 303, 307, 308})
KEEP_THE_METHOD = frozenset({307, 308})
MAX_ADDRESS = 200  # characters, in a sentence


def redirected(method: str, url: URL, status: int, location: str | None) -> URL:
    """The address to ask instead of `url`. Raises Refused with a sentence that names it where it must not be asked."""
    new = _absolute(url, location)
    if url.scheme == "https" and new.scheme == "http":
        raise Refused(f"{told(url)} redirects to {told(new)}, which is not encrypted")
    same = origin(new) == origin(url)
    if method != "GET" and not (same and status in KEEP_THE_METHOD):
        raise Refused(f"{told(url)} redirects to {told(new)}, and a {method} is not sent there; use that address")
    return new.with_user(url.user).with_password(url.password) if same and url.user else new


def origin(url: URL) -> tuple[str, str | None, int | None]:
    """RFC 6454, 4: a port that is not named is that of the scheme."""
    return url.scheme, url.host, url.port


def told(url: URL) -> str:
    """For a sentence, which has no password."""
    return shown(str(url.with_user(None)), MAX_ADDRESS)


def _absolute(url: URL, location: str | None) -> URL:
    """RFC 9110, 10.2.2."""
    try:
        new = url.join(URL(location or ""))
        if location and new.scheme in ("http", "https") and new.host and new.port is not None:
            return new
    except ValueError:
        pass
    raise Refused(f"{told(url)} redirects to {shown(location or 'nothing')}, which is no address")
