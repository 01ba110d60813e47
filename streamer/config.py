"""Settings from the environment, frozen. No lower module imports this one: values are passed down as arguments."""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from streamer.durations import read_duration
from streamer.errors import StartError
from streamer.postgres.conninfo import ConnectionParameters, from_parts, from_url
from streamer.source.source import CursorChoice

SIZE = re.compile(r"([0-9]{1,15}) ?(B|kB|MB|GB|TB)?")
NAME = re.compile(r'(?:[^",]|"(?:[^"]|"")*")*')  # a comma between quotes belongs to the name
URL = re.compile(
    r"https?://[^/?#@\s\\]+(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*)?", re.ASCII | re.IGNORECASE
)
NO_ROLE = "none"  # SET ROLE takes it for "no role", not for the name of one
MIN_ROW_SIZE = 64 * 1024  # bytes
SIZE_UNITS = ("B", "kB", "MB", "GB", "TB")

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


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
    """Bytes; written as 65536, 64kB, 4MB or 20GB, in powers of 1024 as in PostgreSQL."""


class RowSize(Size):
    """At least `MIN_ROW_SIZE` bytes."""


class PublicUrl(str):
    """The base URL in the form that clients use, without a trailing slash."""

    __slots__ = ()


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename="upper", forbid_unknown_fields=True):
    """Each field is the environment variable of the same name in upper case."""

    database_url: str = ""
    db_host: str = ""
    db_port: str = "5432"
    db_user: str = "postgres"
    db_password: str = ""
    db_name: str = "postgres"
    source_database_url: str = ""
    api_host: Hosts = Hosts(("127.0.0.1",))
    api_port: Port = 8080
    public_url: PublicUrl = PublicUrl("")
    database_wait: Duration = Duration(60)
    source_wait: Duration = Duration(10 * 60)
    datasets: Names = Names(("users",))
    datasets_file: Path | None = None
    dataset_role: RoleName | None = None
    export_storage_path: Path = Path("spool")
    export_cursor: CursorChoice = CursorChoice.AUTO
    export_connections: AtLeastOne = 2
    max_concurrent_exports: AtLeastOne = 3
    max_queued_exports: AtLeastOne = 100
    max_followers: AtLeastOne = 1000
    follower_stall_timeout: Timeout = Timeout(60)
    gzip_streams: AtLeastOne = 8
    max_row_size: RowSize = RowSize(2 * 1024**2)
    abandon_after: Duration = Duration(60)
    export_max_time: Timeout = Timeout(6 * 60 * 60)
    export_max_bytes: Size | None = None
    export_ttl: Duration = Duration(24 * 60 * 60)
    history_ttl: Timeout = Timeout(90 * 24 * 60 * 60)
    spool_max_bytes: Size | None = None
    spool_disk_reserve: Size = Size(256 * 1024**2)
    shutdown_grace: Duration = Duration(5)
    log_format: LogFormat = LogFormat.TEXT

    def database(self) -> ConnectionParameters:
        """The database of the exports table. Raises StartError."""
        if self.database_url:
            return from_url(self.database_url, "DATABASE_URL")
        if not self.db_host:
            raise StartError("DATABASE_URL: set it, or DB_HOST with DB_PORT, DB_USER, DB_PASSWORD and DB_NAME")
        return from_parts(
            host=self.db_host, port=self.db_port, user=self.db_user, password=self.db_password, name=self.db_name
        )

    def source_database(self) -> ConnectionParameters:
        """The database that the rows are read from. Raises StartError."""
        if self.source_database_url:
            return from_url(self.source_database_url, "SOURCE_DATABASE_URL")
        return self.database()


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Reads the settings; an empty value counts as unset.

    Raises StartError with one line that names the setting and the allowed values.
    """
    known = {field.encode_name for field in msgspec.structs.fields(Settings)}
    given = {name: text for name, text in environment.items() if name in known and text}
    try:
        settings = msgspec.convert(given, Settings, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise StartError(_sentence(str(error))) from error
    settings.database()  # raises now rather than at the first connection
    settings.source_database()
    return settings


def _decode(wanted: type, text: Any) -> Any:
    return READERS.get(wanted, wanted)(text)


def _duration(text: str) -> Duration:
    try:
        return Duration(read_duration(text).total_seconds())
    except ValueError as error:
        raise ValueError(f"Expected {error}") from error


def _timeout(text: str) -> Timeout:
    seconds = Timeout(_duration(text))
    if not seconds:
        raise ValueError("Expected a duration such as 60s, 5m or 24h, and more than 0")
    return seconds


def _size(text: str) -> Size:
    found = SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError("Expected a size such as 64kB, 4MB or 20GB")
    return Size(int(found[1]) * 1024 ** SIZE_UNITS.index(found[2] or "B"))


def _row_size(text: str) -> RowSize:
    size = RowSize(_size(text))
    if size < MIN_ROW_SIZE:
        raise ValueError("Expected a size such as 64kB, 4MB or 20GB, and no less than 64kB")
    return size


def _names(text: str) -> Names:
    names, at = [], 0
    while at <= len(text):
        found = NAME.match(text, at)
        assert found is not None  # it may be empty
        names.append(found[0].strip())
        at = found.end() + 1
        if text[found.end() : at] not in ("", ","):
            raise ValueError("Expected names separated by commas, with every quote closed")
    if not all(names):
        raise ValueError("Expected names separated by commas")
    return Names(names)


def _hosts(text: str) -> Hosts:
    hosts = Hosts(host.strip() for host in text.split(","))
    if not all(hosts):
        raise ValueError("Expected host names or addresses separated by commas, such as 127.0.0.1,::1")
    return hosts


def _role(text: str) -> RoleName:
    if text == NO_ROLE:
        raise ValueError("Expected the name of a role; leave it empty for the user of the connection")
    return RoleName(text)


def _public_url(text: str) -> PublicUrl:
    found = URL.fullmatch(text)
    try:
        usable = found is not None and bool(urlsplit(text).hostname) and urlsplit(text).port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(
            "Expected an absolute http or https URL without a user, a query and a fragment, such as"
            " https://example.org/exports-api"
        )
    return PublicUrl(text.rstrip("/"))


READERS: Mapping[type, Callable[[str], Any]] = {
    Duration: _duration,
    Timeout: _timeout,
    Size: _size,
    RowSize: _row_size,
    Names: _names,
    Hosts: _hosts,
    RoleName: _role,
    PublicUrl: _public_url,
}


def _sentence(error: str) -> str:
    """Turns msgspec's `Expected `int` <= 65535 - at `$.API_PORT`` into `API_PORT: Expected …`."""
    complaint, _, place = error.rpartition(" - at `$.")
    return f"{place.rstrip('`')}: {complaint}"
