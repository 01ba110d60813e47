"""Settings from the environment, frozen. No lower module imports this one: values are passed down as arguments."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import EnumType, StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec

from streamer.errors import StartError, one_of, shown
from streamer.postgres.conninfo import ConnectionParameters, from_parts, from_url
from streamer.setting_types import (
    AUTO,
    READERS,
    ConnectionCount,
    Duration,
    Hosts,
    Names,
    PublicUrl,
    RoleName,
    RowSize,
    Size,
    Timeout,
    read_hosts,
)
from streamer.source.source import CursorChoice

__all__ = [
    "AUTO",
    "ConnectionCount",
    "Duration",
    "Group",
    "Hosts",
    "LogFormat",
    "Names",
    "PublicUrl",
    "RoleName",
    "RowSize",
    "SettingDescription",
    "Settings",
    "Size",
    "Timeout",
    "described_settings",
    "name_remarks",
    "read_hosts",
    "read_settings",
]

MIN_SIMILARITY = 0.9  # of difflib.SequenceMatcher.ratio, of a name and the setting that was probably meant

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


class Group(StrEnum):
    """The heading that a setting stands under in the documentation."""

    DATABASE = "Database"
    DATASETS = "Datasets"
    NETWORK = "Network"
    EXPORTS = "Exports"
    DOWNLOADS = "Downloads"
    STORAGE = "Storage"
    PROCESS = "Process"


def _about(group: Group, meaning: str, *, alias: str | None = None, essential: bool = False) -> msgspec.Meta:
    """What a user needs to know of a setting: `alias` is a former name, `essential` means one of the ten to know."""
    aliases = (alias,) if alias else ()
    return msgspec.Meta(description=meaning, extra={"group": group, "aliases": aliases, "essential": essential})


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename="upper", forbid_unknown_fields=True):
    """Each field is the environment variable of the same name in upper case."""

    database_url: Annotated[
        str,
        _about(
            Group.DATABASE,
            "The database that holds the table of exports, as a URL such as postgresql://user:password@host:5432/name."
            " If it is set, all settings that begin with DB_ are ignored; what it leaves out is taken from libpq's"
            " variables (PGPASSWORD, PGSSLMODE and so on).",
            essential=True,
        ),
    ] = ""
    db_host: Annotated[
        str,
        _about(
            Group.DATABASE,
            "The host of the database, if DATABASE_URL is not set: a host name, an IP address, the folder of a Unix"
            " socket, or several of these separated by commas.",
        ),
    ] = ""
    db_port: Annotated[
        str, _about(Group.DATABASE, "The port of the database, 1 to 65535, or one port per host, separated by commas.")
    ] = "5432"
    db_user: Annotated[str, _about(Group.DATABASE, "The role that logs in to the database.")] = "postgres"
    db_password: Annotated[str, _about(Group.DATABASE, "The password of DB_USER, as plain text without escapes.")] = ""
    db_password_file: Annotated[
        Path | None,
        _about(
            Group.DATABASE,
            "A file with the password of DB_USER, such as a Docker secret, /run/secrets/db_password; it is read at the"
            " start, without its last line break. It replaces DB_PASSWORD: both together are refused.",
        ),
    ] = None
    db_name: Annotated[str, _about(Group.DATABASE, "The name of the database.")] = "postgres"
    source_database_url: Annotated[
        str,
        _about(
            Group.DATABASE,
            "The database that the rows are read from, such as a replica, as a URL. If it is not set, the rows are read"
            " from the database that holds the table of exports.",
            essential=True,
        ),
    ] = ""
    database_startup_timeout: Annotated[
        Duration,
        _about(
            Group.DATABASE,
            "How long the start waits for a database that does not answer yet, such as 60s or 5m; 0 means one attempt.",
            alias="DATABASE_WAIT",
        ),
    ] = Duration(60)
    source_wait: Annotated[
        Duration,
        _about(
            Group.DATABASE,
            "How long an export waits while its database is unreachable or its table is locked, such as 60s or 10m;"
            " after that the export fails.",
        ),
    ] = Duration(10 * 60)
    datasets: Annotated[
        Names,
        _about(
            Group.DATASETS,
            "The tables and views that may be exported, separated by commas, such as users,sales.orders; sales.* means"
            " all of a schema.",
            essential=True,
        ),
    ] = Names(("users",))
    datasets_file: Annotated[
        Path | None,
        _about(
            Group.DATASETS,
            "A TOML file with more about the datasets: names, columns, filters that always apply, limits.",
        ),
    ] = None
    dataset_role: Annotated[
        RoleName | None,
        _about(
            Group.DATASETS,
            "The role that every export runs as (SET LOCAL ROLE): its grants and row policies decide which rows are"
            " exported. If it is not set, exports run as the role that logged in.",
        ),
    ] = None
    api_host: Annotated[
        Hosts,
        _about(
            Group.NETWORK,
            "The addresses to listen on, separated by commas, such as 127.0.0.1,::1; 0.0.0.0 is every IPv4 address, ::"
            " is every address.",
            essential=True,
        ),
    ] = Hosts(("127.0.0.1",))
    api_port: Annotated[
        Port, _about(Group.NETWORK, "The port to listen on, 0 to 65535; 0 takes a free port.", essential=True)
    ] = 8080
    public_url: Annotated[
        PublicUrl,
        _about(
            Group.NETWORK,
            "The URL that clients use, such as https://example.org/exports-api, if it differs from the server's own"
            " because of a proxy.",
        ),
    ] = PublicUrl("")
    export_method: Annotated[
        CursorChoice,
        _about(
            Group.EXPORTS,
            "How rows are read: blocks (several connections read ranges of a table), copy (COPY on one connection),"
            " fetch (a cursor in the database) or auto, which chooses between blocks and copy.",
            alias="EXPORT_CURSOR",
        ),
    ] = CursorChoice.AUTO
    export_connections: Annotated[
        ConnectionCount,
        _about(
            Group.EXPORTS,
            "The most database connections per export, at least 1; more than one is used if it is faster. auto chooses"
            " at the start, by the cores, the memory and the connections that the database allows.",
        ),
    ] = AUTO
    max_concurrent_exports: Annotated[
        AtLeastOne,
        _about(
            Group.EXPORTS,
            "The most exports that this server runs at once, at least 1; others wait.",
            essential=True,
        ),
    ] = 3
    source_exports: Annotated[
        AtLeastOne | None,
        _about(
            Group.EXPORTS,
            "The most exports that all servers of one database run at once, at least 1; others wait. If it is not set,"
            " there is no limit beside MAX_CONCURRENT_EXPORTS of each server.",
        ),
    ] = None
    max_queued_exports: Annotated[
        AtLeastOne,
        _about(
            Group.EXPORTS,
            "The most exports that may wait, on all servers of one database together, at least 1; further requests are"
            " answered with 429.",
        ),
    ] = 100
    max_row_size: Annotated[
        RowSize,
        _about(Group.EXPORTS, "The largest row, at least 64kB (1 MB is 1024² bytes); a larger row fails its export."),
    ] = RowSize(2 * 1024**2)
    abandoned_export_timeout: Annotated[
        Duration,
        _about(
            Group.EXPORTS,
            "An export that GET /exports/csv started is cancelled if it has no download for this long, such as 60s or"
            " 5m.",
            alias="ABANDON_AFTER",
        ),
    ] = Duration(60)
    export_max_time: Annotated[
        Timeout,
        _about(
            Group.EXPORTS, "How long an export may read from the database, such as 90m or 6h; a longer export fails."
        ),
    ] = Timeout(6 * 60 * 60)
    export_max_bytes: Annotated[
        Size | None,
        _about(
            Group.EXPORTS,
            "The largest file of an export, such as 500MB or 20GB (1 MB is 1024² bytes); a larger export fails. If it"
            " is not set, there is no limit.",
        ),
    ] = None
    max_downloads: Annotated[
        AtLeastOne,
        _about(
            Group.DOWNLOADS,
            "The most downloads at once, at least 1; further ones are answered with 503.",
            alias="MAX_FOLLOWERS",
            essential=True,
        ),
    ] = 1000
    download_stall_timeout: Annotated[
        Timeout,
        _about(
            Group.DOWNLOADS,
            "A client that receives nothing for this long is disconnected, such as 60s or 5m; any progress resets the"
            " timer.",
            alias="FOLLOWER_STALL_TIMEOUT",
        ),
    ] = Timeout(60)
    compressions: Annotated[
        AtLeastOne,
        _about(
            Group.DOWNLOADS,
            "The most compressed files that are made at once, at least 1; each serves any number of downloads. Further"
            " ones wait, or are sent uncompressed.",
            alias="GZIP_STREAMS",
        ),
    ] = 4
    export_storage_path: Annotated[
        Path, _about(Group.STORAGE, "The storage folder: the files of all exports are kept in it.", essential=True)
    ] = Path("spool")
    export_ttl: Annotated[
        Duration,
        _about(
            Group.STORAGE,
            "How long a completed export is kept, such as 12h or 7d; after that its download is answered with 410.",
            essential=True,
        ),
    ] = Duration(24 * 60 * 60)
    history_ttl: Annotated[
        Timeout,
        _about(
            Group.STORAGE,
            "How long the status and the idempotency key of an export are kept after its file is deleted, such as 90d;"
            " after that its id is unknown.",
        ),
    ] = Timeout(90 * 24 * 60 * 60)
    spool_max_bytes: Annotated[
        Size | None,
        _about(
            Group.STORAGE,
            "The most bytes of all files in the storage folder together, such as 20GB (1 MB is 1024² bytes). If it is"
            " not set, the disk is the limit.",
            essential=True,
        ),
    ] = None
    spool_disk_reserve: Annotated[
        Size,
        _about(Group.STORAGE, "How much of the disk is left free, such as 256MB or 5GB (1 MB is 1024² bytes)."),
    ] = Size(256 * 1024**2)
    shutdown_timeout: Annotated[
        Duration,
        _about(
            Group.PROCESS,
            "How long a server that is being stopped waits for running exports and downloads, such as 5s or 1m; after"
            " that they are aborted with an error.",
            alias="SHUTDOWN_GRACE",
        ),
    ] = Duration(5)
    log_format: Annotated[
        LogFormat, _about(Group.PROCESS, "The format of the log: text, or json with one object per line.")
    ] = LogFormat.TEXT

    def database(self) -> ConnectionParameters:
        """The database of the exports table. Raises StartError."""
        if self.database_url:
            return from_url(self.database_url, "DATABASE_URL")
        if not self.db_host:
            raise StartError(
                "DATABASE_URL: set it, or DB_HOST with DB_PORT, DB_USER, DB_PASSWORD and DB_NAME;"
                " `streamer demo` brings a database of its own"
            )
        return from_parts(
            host=self.db_host, port=self.db_port, user=self.db_user, password=self.db_password, name=self.db_name
        )

    def source_database(self) -> ConnectionParameters:
        """The database that the rows are read from. Raises StartError."""
        if self.source_database_url:
            return from_url(self.source_database_url, "SOURCE_DATABASE_URL")
        return self.database()


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingDescription:
    """One setting, as the documentation shows it."""

    name: str
    aliases: tuple[str, ...]  # former names, which still work
    default: str  # as it is written in the environment; empty if there is none
    meaning: str
    group: str
    essential: bool  # one of the ten settings that matter most


def described_settings() -> list[SettingDescription]:
    """Returns every setting, in the order of the documentation."""
    types = get_type_hints(Settings, include_extras=True)
    return [_described(field, types[field.name].__metadata__[-1]) for field in msgspec.structs.fields(Settings)]


def _described(field: msgspec.structs.FieldInfo, about: msgspec.Meta) -> SettingDescription:
    assert about.description is not None
    assert about.extra is not None
    return SettingDescription(
        name=field.encode_name,
        aliases=about.extra["aliases"],
        default=_written(field.default),
        meaning=about.description,
        group=about.extra["group"],
        essential=about.extra["essential"],
    )


def _written(default: Any) -> str:
    """Returns a default as it is written in the environment."""
    if default is None:
        return ""
    if isinstance(default, tuple):
        return ",".join(default)
    if isinstance(default, ConnectionCount) and default == AUTO:
        return "auto"
    if isinstance(default, Size):
        return _in_units(int(default), {"GB": 1024**3, "MB": 1024**2, "kB": 1024, "B": 1})
    if isinstance(default, Duration):
        return _in_units(int(default), {"d": 24 * 60 * 60, "h": 60 * 60, "m": 60, "s": 1})
    return str(default)


def _in_units(number: int, units: Mapping[str, int]) -> str:
    """Uses the largest unit of which there are at least two: 24h says more than 1d, and 60s more than 1m."""
    return next(
        (f"{number // size}{unit}" for unit, size in units.items() if number % size == 0 and number >= 2 * size),
        str(number),
    )


def _current_names() -> Mapping[str, str]:
    """The current name of each setting by its former one."""
    return {alias: setting.name for setting in described_settings() for alias in setting.aliases}


def name_remarks(environment: Mapping[str, str]) -> list[str]:
    """Returns a sentence for each former name of a setting that is in use, and for each name that looks misspelt."""
    given = [name for name, text in environment.items() if text]
    former = _current_names()
    known = {field.encode_name for field in msgspec.structs.fields(Settings)} | former.keys()
    return [f"{name} is called {former[name]} now; the old name still works" for name in given if name in former] + [
        f"{name} is not a setting; did you mean {meant}?" for name in given if (meant := _meant(name, known))
    ]


def _meant(name: str, known: set[str]) -> str | None:
    """Returns the setting that the name differs from in a letter or two; None for a setting, and for all else.

    The environment has variables of other programs, too.
    """
    first_words = {each.partition("_")[0] for each in known}
    if name in known or name.partition("_")[0] not in first_words:
        return None
    from difflib import get_close_matches  # noqa: PLC0415 - 200 kB, which a server without such a name does not need

    return next(iter(get_close_matches(name, known, n=1, cutoff=MIN_SIMILARITY)), None)


def read_settings(environment: Mapping[str, str], options: Mapping[str, str] | None = None) -> Settings:
    """Reads the settings, also under their former names; an empty value counts as unset.

    `options` are those of the command line, by the names of their settings: API_PORT for --port. They win.
    Raises StartError with one line that names the setting, or the option, and the allowed values.
    """
    given, written = _given(environment)
    for name, text in (options or {}).items():
        given[name] = text
        written[name] = "--" + name.rpartition("_")[2].lower()
    try:
        settings = msgspec.convert(given, Settings, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise StartError(_sentence(error, given, written)) from error
    if settings.db_password_file is not None and not settings.database_url:
        settings = _with_password(settings, settings.db_password_file)
    settings.database()  # raises now rather than at the first connection
    settings.source_database()
    return settings


def _with_password(settings: Settings, file: Path) -> Settings:
    """Reads DB_PASSWORD_FILE without its last line break, which editors and `echo` add. Raises StartError."""
    if settings.db_password:
        raise StartError("DB_PASSWORD and DB_PASSWORD_FILE are both set; remove one of them")
    try:
        password = file.read_bytes().decode()
    except OSError as error:
        raise StartError(f"DB_PASSWORD_FILE: {file} cannot be read: {error.strerror}") from error
    except UnicodeError:  # which repeats a part of the password
        raise StartError(f"DB_PASSWORD_FILE: {file} is not UTF-8") from None
    password = password.removesuffix("\n").removesuffix("\r")
    if not password:
        raise StartError(f"DB_PASSWORD_FILE: {file} is empty")
    return msgspec.structs.replace(settings, db_password=password)


def _given(environment: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the text of each setting that is given, and the name that it was given under, by current names."""
    names = {field.encode_name: field.encode_name for field in msgspec.structs.fields(Settings)}
    given: dict[str, str] = {}
    written: dict[str, str] = {}
    for name, current in [*names.items(), *_current_names().items()]:
        text = environment.get(name)
        if not text:
            continue
        if given.setdefault(current, text) != text:
            raise StartError(
                f"{name} is the former name of {current}, and both are set, to different values; remove {name}"
            )
        written.setdefault(current, name)
    return given, written


def _decode(wanted: type, text: Any) -> Any:
    return READERS.get(wanted, wanted)(text)


def _sentence(error: msgspec.ValidationError, given: Mapping[str, str], written: Mapping[str, str]) -> str:
    complaint, _, place = str(error).rpartition(" - at `$.")
    name = place.rstrip("`")
    text = given[name]
    value = "…" if "@" in text else shown(text)  # a URL may contain a password
    return f"{written[name]} must be {_expected(name) or complaint}, not '{value}'"


def _expected(name: str) -> str | None:
    """Returns what a number or a choice must be; None for a type with a reader, whose error says it."""
    found = get_type_hints(Settings, include_extras=True)[name.lower()]
    if isinstance(found.__origin__, EnumType):
        choices: list[StrEnum] = list(found.__origin__)
        return one_of(choices)
    limits = next((meta for meta in found.__metadata__ if meta.ge is not None), None)
    if limits is None:
        return None
    return f"{limits.ge} to {limits.le}" if limits.le is not None else f"a number of at least {limits.ge}"
