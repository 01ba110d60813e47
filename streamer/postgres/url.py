"""Database URLs, in the grammar of libpq (PostgreSQL documentation, 34.1.1.2).

No error repeats a part of the URL: it may contain a part of the password. An error is a predicate: the caller puts the
name of the setting before it.
"""

import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from streamer.postgres.hosts import DEFAULT_PORT, check_host, read_port

SCHEME = re.compile(r"postgres(?:ql)?(?:\+\w+)?://", re.IGNORECASE | re.ASCII)  # SQLAlchemy adds the name of a driver
BROKEN_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})|%00")
PARAMETER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.$]*")

EXPECTED_URL = "must be a URL such as postgresql://user:password@host:5432/database"
ESCAPES = "special characters of the user, the password and the database are written as %40 for @, %2F for /, and so on"


def read_url(url: str) -> dict[str, str]:
    """Returns the parameters of a URL by libpq's names. Raises ValueError with a sentence."""
    scheme = SCHEME.match(url)
    if not scheme:
        raise ValueError(EXPECTED_URL)
    if "#" in url:  # some parsers begin a fragment here, others take it for a part of the password
        raise ValueError(f"must have # written as %23; {ESCAPES}")
    rest, _, query = url[scheme.end() :].partition("?")
    authority, _, path = rest.partition("/")
    user_info, at, hosts = authority.rpartition("@")
    if "@" in user_info or (not at and "@" in path) or ("@" in query and not at and "user=" not in query):
        raise ValueError(f"{EXPECTED_URL}; {ESCAPES}")
    user, _, password = user_info.partition(":")
    given = {"user": _decode(user), "password": _decode(password), "dbname": _decode(path), **_read_authority(hosts)}
    return _with_query(given, query)


def _read_authority(text: str) -> dict[str, str]:
    """Parses hosts and ports. Raises ValueError with a sentence."""
    found = [_read_host_and_port(part) for part in text.split(",")]
    hosts, ports = [host for host, _ in found], [port for _, port in found]
    if hosts == [""]:
        return {"port": ports[0]}
    return {
        "host": ",".join(_checked(host) for host in hosts),
        "port": ",".join(port or str(DEFAULT_PORT) for port in ports) if any(ports) else "",
    }


def _checked(host: str) -> str:
    """Returns the host if it is valid. Raises ValueError with a sentence."""
    try:
        return check_host(host)
    except ValueError as error:
        raise ValueError(f"has a wrong host: it {error}") from error


def _read_host_and_port(text: str) -> tuple[str, str]:
    """Parses one host and its port, if any. Raises ValueError with a sentence."""
    found = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::([^:]*))?", text)
    if not found:
        raise ValueError(f"{EXPECTED_URL}; an IPv6 address is in brackets")
    address, name, port = found[1], found[2], found[3] or ""
    if address is not None and ":" not in address:
        raise ValueError(f"{EXPECTED_URL}; only an IPv6 address is in brackets")
    if port:
        try:
            read_port(port)
        except ValueError as error:
            raise ValueError(f"must have a port from 1 to 65535; {ESCAPES}") from error
    return _decode(name if address is None else address), port


def _with_query(given: Mapping[str, str], query: str) -> dict[str, str]:
    """Adds the parameters of the query. Raises ValueError with a sentence."""
    values = dict(given)
    for part in query.split("&") if query else ():
        name, equals, text = (_decode(piece) for piece in part.partition("="))
        if not equals or not PARAMETER_NAME.fullmatch(name):
            raise ValueError("must have parameters such as ?sslmode=require&connect_timeout=10 after the database")
        name, text = normalize(name, text)
        if values.get(name):
            raise ValueError(f"must not have {name} twice")
        values[name] = text
    return values


def normalize(name: str, text: str) -> tuple[str, str]:
    """Returns a parameter by libpq's name: libpq also accepts `ssl=true` of JDBC, and the driver `database`."""
    if (name, text) == ("ssl", "true"):
        return "sslmode", "require"
    return ("dbname", text) if name == "database" else (name, text)


def _decode(text: str) -> str:
    """Decodes percent-encoding. Raises ValueError with a sentence."""
    if BROKEN_ESCAPE.search(text):
        raise ValueError(f"must have % written as %25; {ESCAPES}")
    try:
        return unquote_to_bytes(text.encode()).decode()
    except UnicodeError:  # whose message may contain the password
        raise ValueError("must be UTF-8") from None
