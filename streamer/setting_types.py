"""The types of settings, and how each is read from the text of an environment variable.

A reader raises ValueError with what the text must be: `a size such as 64kB, 4MB or 20GB`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from streamer.durations import read_duration

SIZE = re.compile(r"([0-9]{1,15}) ?([kmgt]?b)?", re.ASCII | re.IGNORECASE)
COUNT = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
NAME = re.compile(r'(?:[^",]|"(?:[^"]|"")*")*')  # a comma between quotes belongs to the name
URL = re.compile(
    r"https?://[^/?#@\s\\]+(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*)?", re.ASCII | re.IGNORECASE
)
NO_ROLE = "none"  # SET ROLE takes it for "no role", not for the name of one
MIN_ROW_SIZE = 64 * 1024  # bytes
SIZE_UNITS = ("b", "kb", "mb", "gb", "tb")


class Names(tuple[str, ...]):
    """A comma-separated list of names in the syntax of SQL."""


class Hosts(tuple[str, ...]):
    """A comma-separated list of host names and addresses."""


class RoleName(str):
    """The literal name of a role: not quoted, not folded to lower case."""

    __slots__ = ()


class Duration(float):
    """Seconds; written as 90, 60s, 5m, 24h or 7d."""


class Timeout(Duration):
    """A duration of more than 0 seconds."""


class Size(int):
    """Bytes; written as 65536, 64kB, 4MB or 20GB in any case, in powers of 1024 as in PostgreSQL."""


class RowSize(Size):
    """At least `MIN_ROW_SIZE` bytes."""


class ConnectionCount(int):
    """At least 1, or `AUTO`; written as 3 or auto."""

    __slots__ = ()


AUTO = ConnectionCount(0)  # decided at the start: see server/export_connections.py


class PublicUrl(str):
    """The base URL in the form that clients use, without a trailing slash."""

    __slots__ = ()


def _duration(text: str) -> Duration:
    return Duration(read_duration(text).total_seconds())


def _timeout(text: str) -> Timeout:
    seconds = Timeout(_duration(text))
    if not seconds:
        raise ValueError("a duration such as 60s, 5m or 24h, and more than 0")
    return seconds


def _size(text: str) -> Size:
    found = SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError("a size such as 64kB, 4MB or 20GB")
    return Size(int(found[1]) * 1024 ** SIZE_UNITS.index((found[2] or "B").lower()))


def _row_size(text: str) -> RowSize:
    size = RowSize(_size(text))
    if size < MIN_ROW_SIZE:
        raise ValueError("a size such as 64kB, 4MB or 20GB, and no less than 64kB")
    return size


def _connection_count(text: str) -> ConnectionCount:
    if text == "auto":
        return AUTO
    if not COUNT.fullmatch(text):
        raise ValueError("auto, or a number of at least 1")
    return ConnectionCount(text)


def _names(text: str) -> Names:
    names, at = [], 0
    while at <= len(text):
        found = NAME.match(text, at)
        assert found is not None  # it may be empty
        names.append(found[0].strip())
        at = found.end() + 1
        if text[found.end() : at] not in ("", ","):
            raise ValueError("names separated by commas, with every quote closed")
    if not all(names):
        raise ValueError("names separated by commas")
    return Names(names)


def read_hosts(text: str) -> Hosts:
    """Reads the hosts to listen on. Raises ValueError with the expected form."""
    hosts = Hosts(host.strip() for host in text.split(","))
    if not all(hosts):
        raise ValueError("host names or addresses separated by commas, such as 127.0.0.1,::1")
    return hosts


def _role(text: str) -> RoleName:
    if text == NO_ROLE:
        raise ValueError("the name of a role, or empty for the user of the connection")
    return RoleName(text)


def _public_url(text: str) -> PublicUrl:
    found = URL.fullmatch(text)
    try:
        usable = found is not None and bool(urlsplit(text).hostname) and urlsplit(text).port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(
            "an absolute http or https URL without a user, a query and a fragment, such as"
            " https://example.org/exports-api"
        )
    return PublicUrl(text.rstrip("/"))


READERS: Mapping[type, Callable[[str], Any]] = {
    Duration: _duration,
    Timeout: _timeout,
    Size: _size,
    RowSize: _row_size,
    ConnectionCount: _connection_count,
    Names: _names,
    Hosts: read_hosts,
    RoleName: _role,
    PublicUrl: _public_url,
}
