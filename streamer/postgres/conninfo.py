"""Connection parameters: what a setting says about a database, parsed once, for the driver.

The parameters have libpq's names. The driver supports fewer of them, and sends an unknown name to the server as a
setting. So each parameter is handled here, before any connection:

- The driver gets the parameters that it supports.
- A value that describes what the driver does anyway is accepted (`gssencmode=disable`).
- A parameter that only tunes is ignored, and `remarks` reports it for the log (`keepalives_idle`).
- A parameter that protects or changes the meaning, and is not supported, is refused by name (`require_auth`).
- `channel_binding=require` protects against a server that impersonates the database. The driver has no channel
  binding, but the certificate protects against the same: it is verified as by `sslmode=verify-full`.
- Any other name is a setting of the server, which refuses those that it does not have.

A parameter that the setting does not contain is read from the service file that it names, then from libpq's environment
variables. No error repeats a value: it may contain a part of the password.
"""

import configparser
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from streamer.errors import StartError, one_of
from streamer.postgres.hosts import DEFAULT_PORT, SOCKET_FOLDERS, Address, addresses, read_hosts, read_ports
from streamer.postgres.url import normalize, read_url

SYSTEM = "system"  # an `sslrootcert`: the certificates that the operating system trusts
VERIFY_FULL = "verify-full"
ROOT_CERTIFICATE = ".postgresql/root.crt"
TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
OPTIONAL_TLS = ("disable", "allow", "prefer")  # values of `sslmode` that allow a connection without TLS

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
    "sslmode": (*OPTIONAL_TLS, "require", "verify-ca", VERIFY_FULL),
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": TLS_VERSIONS,
    "ssl_max_protocol_version": TLS_VERSIONS,
    "target_session_attrs": ("any", "primary", "standby", "prefer-standby", "read-write", "read-only"),
    "load_balance_hosts": ("disable", "random"),
    "channel_binding": ("disable", "prefer", "require"),
    "gsslib": ("gssapi", "sspi"),
}
TLS_PARAMETERS = (
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
ACCEPTED: Mapping[str, Sequence[str]] = {
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
IGNORED: Mapping[str, Sequence[str] | None] = {
    "channel_binding": ("prefer",),
    "fallback_application_name": None,  # any value
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
UNSUPPORTED = (
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionParameters:
    """`setting` is the name of the setting that names this database; None means the default of the driver."""

    setting: str
    addresses: tuple[Address, ...]
    user: str | None
    password: str | None = field(repr=False)
    database: str | None
    passfile: str | None
    connect_timeout: float | None  # seconds for one attempt at one host
    target_session_attrs: str
    load_balance: bool  # whether the hosts are tried in a random order
    krbsrvname: str | None
    gsslib: str | None
    tls: Mapping[str, str] = field(repr=False)
    server_settings: Mapping[str, str] = field(repr=False)
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Value:
    """A value, and what a message calls it."""

    text: str
    label: str

    def refused(self, predicate: str) -> StartError:
        return StartError(f"{self.label} {predicate}")


def from_parts(*, host: str, port: str, user: str, password: str, name: str) -> ConnectionParameters:
    """Parses DB_HOST, DB_PORT, DB_USER, DB_PASSWORD and DB_NAME, which may be empty.

    Raises StartError that names the invalid one.
    """
    parts = {
        "host": _Value(host, "DB_HOST"),
        "port": _Value(port, "DB_PORT"),
        "user": _Value(user, "DB_USER"),
        "password": _Value(password, "DB_PASSWORD"),
        "dbname": _Value(name, "DB_NAME"),
    }
    return _parameters("DB_HOST", _from_environment() | {key: value for key, value in parts.items() if value.text})


def from_url(url: str, setting: str) -> ConnectionParameters:
    """Parses a database URL. Raises StartError that names the setting and the invalid parameter."""
    try:
        given = read_url(url)
    except ValueError as error:
        raise StartError(f"{setting} {error}") from error
    values = {name: _Value(text, f"{setting}: {name}") for name, text in given.items() if text}
    return _parameters(setting, _from_environment() | _from_service(values) | values)


def _from_environment() -> dict[str, _Value]:
    return {name: _Value(os.environ[key], key) for name, key in VARIABLES.items() if os.environ.get(key)}


def _from_service(values: dict[str, _Value]) -> dict[str, _Value]:
    """Removes `service` from `values`, and returns the parameters that the service file has for it."""
    service = values.pop("service", None)
    if service is None:
        return {}
    path = os.environ.get("PGSERVICEFILE") or str(home_file(".pg_service.conf"))
    file = configparser.ConfigParser(interpolation=None)
    try:
        with Path(path).open(encoding="utf-8") as lines:
            file.read_file(lines)
        section = file[service.text]
    except (FileNotFoundError, KeyError) as error:
        raise service.refused(f"cannot be found in {path}") from error
    except OSError as error:
        raise service.refused(f"cannot be read from {path}: {error.strerror}") from error
    except (configparser.Error, UnicodeError):  # whose message repeats lines, and so passwords
        raise service.refused(f"cannot be read from {path}, which is not a service file") from None
    pairs = (normalize(name, text) for name, text in section.items())
    return {name: _Value(text, f"{service.label}: {name}") for name, text in pairs if text}


def _parameters(setting: str, values: Mapping[str, _Value]) -> ConnectionParameters:
    """Raises StartError that names the invalid value."""
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
        load_balance=text.get("load_balance_hosts") == "random",
        krbsrvname=text.get("krbsrvname"),
        gsslib=text.get("gsslib"),
        tls=_tls(values),
        server_settings={name: given for name, given in text.items() if name not in KNOWN},
        remarks=tuple(_remarks(text)),
    )


def _check(name: str, value: _Value) -> None:
    """Raises StartError for a value that is invalid or not supported."""
    if "\0" in value.text or not _is_utf8(value.text):
        raise value.refused("must be UTF-8 without NUL")
    if name in CHOICES and value.text not in CHOICES[name]:
        raise value.refused(f"must be {one_of(CHOICES[name])}")
    if name in UNSUPPORTED:
        raise value.refused("is not supported by the driver")
    if (name in ACCEPTED or name in IGNORED) and not (
        value.text in ACCEPTED.get(name, ()) or _is_ignored(name, value.text)
    ):
        allowed = [*ACCEPTED.get(name, ()), *(IGNORED.get(name) or ())]
        raise value.refused(f"is not supported by the driver, other than {one_of(allowed)}")


def _is_ignored(name: str, text: str) -> bool:
    if name not in IGNORED:
        return False
    values = IGNORED[name]
    return values is None or text in values


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _addresses(values: Mapping[str, _Value]) -> tuple[Address, ...]:
    host, port = values.get("host"), values.get("port")
    hosts = _parsed(host, read_hosts) if host else SOCKET_FOLDERS
    if port is None:
        return addresses(hosts, [DEFAULT_PORT])
    return _parsed(port, lambda text: addresses(hosts, read_ports(text)))


def _parsed(value: _Value, read: Callable[[str], T]) -> T:
    """Returns what `read` makes of the value, with its ValueError as StartError."""
    try:
        return read(value.text)
    except ValueError as error:
        raise value.refused(str(error)) from error


def _seconds(value: _Value | None) -> float | None:
    """Returns a number of seconds. Zero and less mean no limit to libpq, and the default of the driver here."""
    if value is None:
        return None
    if not re.fullmatch(r"-?[0-9]{1,9}", value.text, re.ASCII):
        raise value.refused("must be a number of seconds")
    return float(value.text) if int(value.text) > 0 else None


def _tls(values: Mapping[str, _Value]) -> dict[str, str]:
    """Returns the parameters of TLS. Raises StartError if one contradicts another."""
    tls = {name: values[name].text for name in TLS_PARAMETERS if name in values}
    binding, mode = values.get("channel_binding"), tls.get("sslmode")
    if binding and binding.text == "require":
        if mode == "disable":
            raise binding.refused("contradicts sslmode=disable: there is no channel without TLS")
        tls["sslmode"] = "verify-ca" if mode == "verify-ca" else VERIFY_FULL
        if mode != "verify-ca" and not file_exists(home_file(ROOT_CERTIFICATE)):
            tls.setdefault("sslrootcert", SYSTEM)
    if tls.get("sslrootcert") == SYSTEM and tls.setdefault("sslmode", VERIFY_FULL) != VERIFY_FULL:
        raise values["sslmode"].refused(f"must be {VERIFY_FULL} with sslrootcert={SYSTEM}")
    if tls.get("sslnegotiation") == "direct" and tls.get("sslmode", "prefer") in OPTIONAL_TLS:
        raise values["sslnegotiation"].refused("must not be direct without sslmode=require, verify-ca or verify-full")
    return tls


def home_file(name: str) -> Path:
    """Returns the path at which libpq and the driver look for a file by default."""
    return Path(os.path.expanduser("~"), name)  # noqa: PTH111 - Path.home() raises if there is none


def file_exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - Path.exists() raises if a folder on the way may not be searched


def _remarks(text: Mapping[str, str]) -> Iterator[str]:
    """Yields sentences for the log."""
    if ignored := sorted(name for name in text if _is_ignored(name, text[name])):
        yield f"without effect: {', '.join(ignored)}"
    if text.get("channel_binding") == "require":
        yield "channel_binding: the driver does not have it; the certificate of the server is verified instead"


KNOWN = frozenset(
    {"host", "port", "user", "password", "dbname", "passfile", "connect_timeout", "krbsrvname"}
    | CHOICES.keys()
    | ACCEPTED.keys()
    | IGNORED.keys()
    | set(TLS_PARAMETERS)
)
"""Parameters of the connection. Every other name is a setting of the server."""
