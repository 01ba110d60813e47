"""Connection parameters: what a setting says of a database, read once, and handed to the driver as parts.

A URL has the grammar of libpq (PostgreSQL documentation, 34.1.1.2), and so have the names of its parameters. The driver
knows fewer of these than libpq, and takes a name that it does not know for a setting of the server. So each is decided
upon here, before any connection:

- what the driver can do, it does;
- what describes the only thing that the driver does is fulfilled (`gssencmode=disable`);
- what only tunes is dropped, which `remarks` tells the log (`keepalives_idle`);
- what protects or changes the meaning, and cannot be done, is refused by its name (`require_auth`);
- `channel_binding=require` guards against a server that only pretends. The driver has no channel binding, but the
  certificate guards against the same: it is verified as by `sslmode=verify-full`;
- any other name is a setting of the server, which itself refuses those that it does not have.

What the setting does not say is taken from the service file that it names, then from libpq's environment variables.
Nothing is guessed, and no sentence repeats a value: it may hold a part of the password.
"""

import configparser
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from streamer.errors import StartError
from streamer.postgres.hosts import (
    DEFAULT_PORT,
    SOCKET_FOLDERS,
    Address,
    addresses,
    check_host,
    read_hosts,
    read_port,
    read_ports,
)

SYSTEM = "system"  # as `sslrootcert`: the certificates that the operating system trusts
VERIFY_FULL = "verify-full"
ROOT_CERTIFICATE = ".postgresql/root.crt"
SCHEME = re.compile(r"postgres(?:ql)?(?:\+\w+)?://", re.IGNORECASE | re.ASCII)  # SQLAlchemy's name a driver, too
BROKEN_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})|%00")
SETTING_OF_SERVER = re.compile(r"[A-Za-z_][A-Za-z0-9_.$]*")
TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
OPTIONAL = ("disable", "allow", "prefer")  # modes in which a connection may be without TLS

VARIABLES: Mapping[str, str] = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "passfile": "PGPASSFILE",
    "application_name": "PGAPPNAME",
    "options": "PGOPTIONS",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
    "channel_binding": "PGCHANNELBINDING",
    "require_auth": "PGREQUIREAUTH",
    "requirepeer": "PGREQUIREPEER",
    "gssencmode": "PGGSSENCMODE",
    "krbsrvname": "PGKRBSRVNAME",
    "gsslib": "PGGSSLIB",
    "sslmode": "PGSSLMODE",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcrl": "PGSSLCRL",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
}
CHOICES: Mapping[str, Sequence[str]] = {
    "sslmode": (*OPTIONAL, "require", "verify-ca", VERIFY_FULL),
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": TLS_VERSIONS,
    "ssl_max_protocol_version": TLS_VERSIONS,
    "target_session_attrs": ("any", "primary", "standby", "prefer-standby", "read-write", "read-only"),
    "load_balance_hosts": ("disable", "random"),
    "channel_binding": ("disable", "prefer", "require"),
    "gsslib": ("gssapi", "sspi"),
}
OF_TLS = (
    "sslmode",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslrootcert",
    "sslcrl",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "sslnegotiation",
)
FULFILLED: Mapping[str, Sequence[str]] = {
    "channel_binding": ("disable", "require"),
    "client_encoding": ("UTF8", "UTF-8", "utf8", "utf-8", "auto"),
    "gssdelegation": ("0",),
    "gssencmode": ("disable",),
    "min_protocol_version": ("3.0",),
    "replication": ("false", "off", "no", "0"),
    "sslcertmode": ("allow",),
    "sslcompression": ("0",),
    "sslsni": ("1",),
}
COMFORT: Mapping[str, Sequence[str] | None] = {
    "channel_binding": ("prefer",),
    "fallback_application_name": None,  # whatever it says
    "gssencmode": ("prefer",),
    "keepalives": None,
    "keepalives_count": None,
    "keepalives_idle": None,
    "keepalives_interval": None,
    "max_protocol_version": None,
    "sslcompression": ("1",),
    "sslkeylogfile": None,
    "tcp_user_timeout": None,
}
REFUSED = (
    "hostaddr",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_issuer",
    "oauth_scope",
    "require_auth",
    "requirepeer",
    "scram_client_key",
    "scram_server_key",
    "sslcrldir",
)

T = TypeVar("T")

WANTED = "Expected a URL such as postgresql://user:password@host:5432/database"
ESCAPED = "special characters of the user, the password and the database are written as %40 for @, %2F for /, and so on"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionParameters:
    """`setting` is the name a user knows the database by; None is left to the driver's default."""

    setting: str
    addresses: tuple[Address, ...]
    user: str | None
    password: str | None = field(repr=False)
    database: str | None
    passfile: str | None
    connect_timeout: float | None  # seconds for one attempt at one host
    target_session_attrs: str
    balanced: bool
    krbsrvname: str | None
    gsslib: str | None
    tls: Mapping[str, str] = field(repr=False)
    server_settings: Mapping[str, str] = field(repr=False)
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Value:
    """A value and the name a user knows it by."""

    text: str
    label: str

    def refused(self, sentence: str) -> StartError:
        return StartError(f"{self.label}: {sentence}")


def from_parts(*, host: str, port: str, user: str, password: str, name: str) -> ConnectionParameters:
    """What DB_HOST and its companions say; an empty password is none. Raises StartError that names the one at fault."""
    parts = {
        "host": _Value(host, "DB_HOST"),
        "port": _Value(port, "DB_PORT"),
        "user": _Value(user, "DB_USER"),
        "password": _Value(password, "DB_PASSWORD"),
        "dbname": _Value(name, "DB_NAME"),
    }
    return _parameters("DB_HOST", _from_environment() | {key: value for key, value in parts.items() if value.text})


def from_url(url: str, setting: str) -> ConnectionParameters:
    """Raises StartError that names the setting, and the parameter at fault."""
    try:
        given = _read_url(url)
    except ValueError as error:
        raise StartError(f"{setting}: {error}") from error
    values = {name: _Value(text, f"{setting}: {name}") for name, text in given.items() if text}
    return _parameters(setting, _from_environment() | _from_service(values) | values)


def _read_url(url: str) -> dict[str, str]:
    """Raises ValueError with a sentence."""
    scheme = SCHEME.match(url)
    if not scheme:
        raise ValueError(WANTED)
    if "#" in url:  # the beginning of a fragment for some readers, and for others a part of the password
        raise ValueError(f"A # is written as %23; {ESCAPED}")
    rest, _, query = url[scheme.end() :].partition("?")
    authority, _, path = rest.partition("/")
    user_info, at, hosts = authority.rpartition("@")
    if "@" in user_info or (not at and "@" in path) or ("@" in query and not at and "user=" not in query):
        raise ValueError(f"{WANTED}; {ESCAPED}")
    user, _, password = user_info.partition(":")
    given = {"user": _decode(user), "password": _decode(password), "dbname": _decode(path), **_read_authority(hosts)}
    return _with_query(given, query)


def _read_authority(text: str) -> dict[str, str]:
    """Raises ValueError with a sentence."""
    found = [_read_host_and_port(part) for part in text.split(",")]
    hosts, ports = [host for host, _ in found], [port for _, port in found]
    if hosts == [""]:
        return {"port": ports[0]}
    return {
        "host": ",".join(check_host(host) for host in hosts),
        "port": ",".join(port or str(DEFAULT_PORT) for port in ports) if any(ports) else "",
    }


def _read_host_and_port(text: str) -> tuple[str, str]:
    """Raises ValueError with a sentence."""
    found = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::([^:]*))?", text)
    if not found:
        raise ValueError(f"{WANTED}; an IPv6 address is in brackets")
    address, name, port = found[1], found[2], found[3] or ""
    if address is not None and ":" not in address:
        raise ValueError(f"{WANTED}; only an IPv6 address is in brackets")
    if port:
        try:
            read_port(port)
        except ValueError as error:
            raise ValueError(f"The port is not a number from 1 to 65535; {ESCAPED}") from error
    return _decode(name if address is None else address), port


def _with_query(given: Mapping[str, str], query: str) -> dict[str, str]:
    """Raises ValueError with a sentence."""
    values = dict(given)
    for part in query.split("&") if query else ():
        name, equals, text = (_decode(piece) for piece in part.partition("="))
        if not equals or not SETTING_OF_SERVER.fullmatch(name):
            raise ValueError("Expected parameters such as ?sslmode=require&connect_timeout=10 after the database")
        name, text = _spelled(name, text)
        if values.get(name):
            raise ValueError(f"{name}: is given twice")
        values[name] = text
    return values


def _spelled(name: str, text: str) -> tuple[str, str]:
    """libpq takes `ssl=true` of JDBC as well; the driver, `database`."""
    if (name, text) == ("ssl", "true"):
        return "sslmode", "require"
    return ("dbname", text) if name == "database" else (name, text)


def _decode(text: str) -> str:
    """Raises ValueError with a sentence."""
    if BROKEN_ESCAPE.search(text):
        raise ValueError(f"A % is written as %25; {ESCAPED}")
    try:
        return unquote_to_bytes(text.encode()).decode()
    except UnicodeError:  # which quotes what may be the password
        raise ValueError("Expected UTF-8") from None


def _from_environment() -> dict[str, _Value]:
    return {name: _Value(os.environ[key], key) for name, key in VARIABLES.items() if os.environ.get(key)}


def _from_service(values: dict[str, _Value]) -> dict[str, _Value]:
    """What the service file says of the service that is named, which is taken out of `values`."""
    service = values.pop("service", None)
    if service is None:
        return {}
    path = os.environ.get("PGSERVICEFILE") or str(in_home(".pg_service.conf"))
    file = configparser.ConfigParser(interpolation=None)
    try:
        with Path(path).open(encoding="utf-8") as lines:
            file.read_file(lines)
        section = file[service.text]
    except (FileNotFoundError, KeyError) as error:
        raise service.refused(f"cannot be found in {path}") from error
    except OSError as error:
        raise service.refused(f"{path} cannot be read: {error.strerror}") from error
    except (configparser.Error, UnicodeError):  # which quotes lines, and so passwords
        raise service.refused(f"{path} is not a service file") from None
    pairs = (_spelled(name, text) for name, text in section.items())
    return {name: _Value(text, f"{service.label}: {name}") for name, text in pairs if text}


def _parameters(setting: str, values: Mapping[str, _Value]) -> ConnectionParameters:
    """Raises StartError."""
    for name, value in values.items():
        _check(name, value)
    text = {name: value.text for name, value in values.items()}
    return ConnectionParameters(
        setting=setting,
        addresses=_addresses(values),
        user=text.get("user"),
        password=text.get("password"),
        database=text.get("dbname"),
        passfile=text.get("passfile"),
        connect_timeout=_seconds(values.get("connect_timeout")),
        target_session_attrs=text.get("target_session_attrs", "any"),
        balanced=text.get("load_balance_hosts") == "random",
        krbsrvname=text.get("krbsrvname"),
        gsslib=text.get("gsslib"),
        tls=_tls(values),
        server_settings={name: given for name, given in text.items() if name not in KNOWN},
        remarks=tuple(_remarks(text)),
    )


def _check(name: str, value: _Value) -> None:
    """Raises StartError."""
    if "\0" in value.text or not _is_utf8(value.text):
        raise value.refused("Expected UTF-8 without NUL")
    if name in CHOICES and value.text not in CHOICES[name]:
        raise value.refused(f"Expected {_one_of(CHOICES[name])}")
    if name in REFUSED:
        raise value.refused("is not supported by the driver")
    if (name in FULFILLED or name in COMFORT) and not (
        value.text in FULFILLED.get(name, ()) or _is_comfort(name, value.text)
    ):
        allowed = [*FULFILLED.get(name, ()), *(COMFORT.get(name) or ())]
        raise value.refused(f"is not supported by the driver, other than {_one_of(allowed)}")


def _is_comfort(name: str, text: str) -> bool:
    if name not in COMFORT:
        return False
    values = COMFORT[name]
    return values is None or text in values


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _addresses(values: Mapping[str, _Value]) -> tuple[Address, ...]:
    host, port = values.get("host"), values.get("port")
    hosts = _understood(host, read_hosts) if host else SOCKET_FOLDERS
    if port is None:
        return addresses(hosts, [DEFAULT_PORT])
    return _understood(port, lambda text: addresses(hosts, read_ports(text)))


def _understood(value: _Value, read: Callable[[str], T]) -> T:
    """Raises StartError."""
    try:
        return read(value.text)
    except ValueError as error:
        raise value.refused(str(error)) from error


def _seconds(value: _Value | None) -> float | None:
    """No more than nothing is no limit, for libpq; the driver keeps its own."""
    if value is None:
        return None
    if not re.fullmatch(r"-?[0-9]{1,9}", value.text, re.ASCII):
        raise value.refused("Expected a number of seconds")
    return float(value.text) if int(value.text) > 0 else None


def _tls(values: Mapping[str, _Value]) -> dict[str, str]:
    """Raises StartError where one parameter contradicts another."""
    tls = {name: values[name].text for name in OF_TLS if name in values}
    binding, mode = values.get("channel_binding"), tls.get("sslmode")
    if binding and binding.text == "require":
        if mode == "disable":
            raise binding.refused("contradicts sslmode=disable: there is no channel without TLS")
        tls["sslmode"] = "verify-ca" if mode == "verify-ca" else VERIFY_FULL
        if mode != "verify-ca" and not is_there(in_home(ROOT_CERTIFICATE)):
            tls.setdefault("sslrootcert", SYSTEM)
    if tls.get("sslrootcert") == SYSTEM and tls.setdefault("sslmode", VERIFY_FULL) != VERIFY_FULL:
        raise values["sslmode"].refused(f"Expected {VERIFY_FULL} with sslrootcert={SYSTEM}")
    if tls.get("sslnegotiation") == "direct" and tls.get("sslmode", "prefer") in OPTIONAL:
        raise values["sslnegotiation"].refused("direct needs sslmode=require, verify-ca or verify-full")
    return tls


def in_home(name: str) -> Path:
    """Where libpq and the driver look for a file that no parameter names. It need not exist."""
    return Path(os.path.expanduser("~"), name)  # noqa: PTH111 - Path.home() raises where there is none


def is_there(path: Path) -> bool:
    """Path.exists() raises where the folder of another user is in the way."""
    return os.path.exists(path)  # noqa: PTH110


def _remarks(text: Mapping[str, str]) -> Iterator[str]:
    """Sentences for the log."""
    if comfort := sorted(name for name in text if _is_comfort(name, text[name])):
        yield f"without effect: {', '.join(comfort)}"
    if text.get("channel_binding") == "require":
        yield "channel_binding: the driver does not have it; the certificate of the server is verified instead"


def _one_of(choices: Sequence[str]) -> str:
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last


KNOWN = frozenset(
    {"host", "port", "user", "password", "dbname", "passfile", "connect_timeout", "krbsrvname"}
    | CHOICES.keys()
    | FULFILLED.keys()
    | COMFORT.keys()
    | set(OF_TLS)
)
"""What goes to the driver, or nowhere; every other name is a setting of the server."""
