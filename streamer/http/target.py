"""The request target: its query and its path, decoded strictly.

A URL is bytes in percent-encoding (RFC 3986, 2.1), and those bytes are UTF-8 here. aiohttp decodes with replacement:
`name__ne=M%FCller` would become another name, which no row has, and so select every row. This module refuses what it
cannot decode exactly. So handlers read a query or a name in a path with it, never with `request.query` or
`request.match_info`.
"""

import re
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

from aiohttp import web

from streamer.errors import BadParameter, BadTarget

MALFORMED = re.compile(r"%(?![0-9A-Fa-f]{2})")

Query = Sequence[tuple[str, str]]
"""Names and values, in the order of the query; a name may occur several times."""


def read_query(request: web.Request) -> Query:
    """Returns the query of the request. Raises BadParameter, which names the parameter at fault, and BadTarget."""
    if "#" in request.raw_path:
        # RFC 9112, 3.2: a request target has no fragment. aiohttp drops what looks like one: the end of `name=C#`.
        raise BadTarget("the URL has a # in it, which must be written as %23")
    return parse_query(request.rel_url.raw_query_string)


def parse_query(text: str) -> Query:
    """Decodes a query as a form (WHATWG URL Standard, 5.1). Raises BadParameter if it is malformed."""
    pairs = (piece.partition("=") for piece in text.split("&") if piece)
    return [(_decoded(name, name), _decoded(name, value)) for name, _, value in pairs]


def values_of(query: Query, name: str) -> list[str]:
    return [value for other, value in query if other == name]


def read_path(request: web.Request) -> str | None:
    """Returns the decoded path; None if it is malformed, so that it names nothing."""
    try:
        return decode(request.rel_url.raw_path)
    except ValueError:
        return None


def decode(text: str) -> str:
    """Decodes percent-encoded UTF-8. Raises ValueError with the reason in a sentence."""
    if MALFORMED.search(text):
        raise ValueError("a % must be followed by two hexadecimal digits; a % itself is written as %25")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError as error:
        raise ValueError("must be UTF-8 in percent-encoding") from error


def _decoded(name: str, text: str) -> str:
    try:
        return decode(text.replace("+", " "))
    except ValueError as error:
        raise BadParameter(name, str(error)) from error
