"""Settings from the environment: the values of each, and the one line a user reads when a value is not allowed."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.config import LogFormat, Settings, read_settings
from streamer.errors import StartError
from streamer.source.source import CursorChoice

URL = "postgresql://localhost/exports"
DEFAULTS = {
    "api_host": ("127.0.0.1",),
    "api_port": 8080,
    "public_url": "",
    "database_wait": 60.0,
    "datasets": ("users",),
    "export_storage_path": Path("spool"),
    "export_cursor": CursorChoice.AUTO,
    "export_connections": 2,
    "max_concurrent_exports": 3,
    "max_queued_exports": 100,
    "max_followers": 1000,
    "follower_stall_timeout": 60.0,
    "gzip_streams": 8,
    "max_row_size": 2 * 1024 * 1024,
    "abandon_after": 60.0,
    "log_format": LogFormat.TEXT,
}


def read(**environment: str) -> Settings:
    return read_settings({"DATABASE_URL": URL, **environment})


def test_url_alone_gives_the_defaults() -> None:
    found = read()
    assert found.database_url == URL
    assert {name: getattr(found, name) for name in DEFAULTS} == DEFAULTS


def test_source_is_the_same_database_unless_it_is_set() -> None:
    assert read().source_database() == read().database()
    found = read(SOURCE_DATABASE_URL="postgresql://elsewhere/").source_database()
    assert found.addresses == (("elsewhere", 5432),)
    assert found.setting == "SOURCE_DATABASE_URL"


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("API_HOST", "0.0.0.0", ("0.0.0.0",)),
        ("API_HOST", "127.0.0.1, ::1", ("127.0.0.1", "::1")),
        ("API_PORT", "0", 0),
        ("API_PORT", "65535", 65535),
        ("PUBLIC_URL", "https://example.org", "https://example.org"),
        ("PUBLIC_URL", "https://example.org/", "https://example.org"),
        ("PUBLIC_URL", "http://[::1]:8080/exports-api//", "http://[::1]:8080/exports-api"),
        ("PUBLIC_URL", "HTTPS://example.org:443/a%20b/c", "HTTPS://example.org:443/a%20b/c"),
        ("EXPORT_STORAGE_PATH", "/var/spool/exports", Path("/var/spool/exports")),
        ("EXPORT_CURSOR", "copy", CursorChoice.COPY),
        ("EXPORT_CURSOR", "fetch", CursorChoice.FETCH),
        ("MAX_CONCURRENT_EXPORTS", "1", 1),
        ("MAX_QUEUED_EXPORTS", "5000", 5000),
        ("EXPORT_CURSOR", "blocks", CursorChoice.BLOCKS),
        ("EXPORT_CONNECTIONS", "1", 1),
        ("GZIP_STREAMS", "64", 64),
        ("MAX_FOLLOWERS", "1", 1),
        ("MAX_FOLLOWERS", "10000", 10_000),
        ("LOG_FORMAT", "json", LogFormat.JSON),
        ("DATASETS", "users", ("users",)),
        ("DATASETS", "users,public.orders", ("users", "public.orders")),
        ("DATASETS", " users , orders ", ("users", "orders")),
        ("DATASETS", "users,sales.*", ("users", "sales.*")),
        ("DATASETS", '"Order, Lines","a""b".c , d', ('"Order, Lines"', '"a""b".c', "d")),
        ("DATASETS_FILE", "/etc/datasets.toml", Path("/etc/datasets.toml")),
        ("DATASET_ROLE", "reader", "reader"),
        ("DATASET_ROLE", "None", "None"),
        ("DATABASE_WAIT", "90", 90.0),
        ("DATABASE_WAIT", "0", 0.0),
        ("DATABASE_WAIT", "1.5", 1.5),
        ("ABANDON_AFTER", "250ms", 0.25),
        ("ABANDON_AFTER", "60s", 60.0),
        ("ABANDON_AFTER", "5m", 300.0),
        ("ABANDON_AFTER", "24h", 86_400.0),
        ("ABANDON_AFTER", "7d", 604_800.0),
        ("ABANDON_AFTER", "0.5h", 1800.0),
        ("ABANDON_AFTER", " 5m ", 300.0),
        ("FOLLOWER_STALL_TIMEOUT", "2s", 2.0),
        ("FOLLOWER_STALL_TIMEOUT", "1h", 3600.0),
        ("MAX_ROW_SIZE", "65536", 65_536),
        ("MAX_ROW_SIZE", "65536B", 65_536),
        ("MAX_ROW_SIZE", "64kB", 65_536),
        ("MAX_ROW_SIZE", "64 kB", 65_536),
        ("MAX_ROW_SIZE", "4MB", 4 * 1024**2),
        ("MAX_ROW_SIZE", " 4MB ", 4 * 1024**2),
        ("MAX_ROW_SIZE", "20GB", 20 * 1024**3),
        ("MAX_ROW_SIZE", "1TB", 1024**4),
    ],
)
def test_value_is_parsed_for_its_setting(variable: str, text: str, value: object) -> None:
    assert getattr(read(**{variable: text}), variable.lower()) == value


@pytest.mark.parametrize(
    ("variable", "text", "allowed"),
    [
        ("API_HOST", "127.0.0.1,", "separated by commas"),
        ("API_HOST", ",", "separated by commas"),
        ("API_PORT", "http", "int"),
        ("API_PORT", "-1", ">= 0"),
        ("API_PORT", "65536", "<= 65535"),
        ("API_PORT", "8080.5", "int"),
        ("API_PORT", "9" * 400, "65535"),
        ("API_PORT", "80\n80", "int"),
        ("API_PORT", "\uff18\uff10", "int"),
        *(
            ("PUBLIC_URL", text, "absolute http or https URL")
            for text in (
                "example.org",
                "/exports-api",
                "//example.org",
                "ftp://example.org",
                "https://",
                "https:///exports-api",
                "https://example.org?",
                "https://example.org/?a=b",
                "https://example.org/#top",
                "https://user:password@example.org/",
                "https://example.org/a b",
                "https://example.org/a%2",
                "https://example.org/\u00e9",
                "https://example.org:port/",
                "https://example.org:99999/",
                "https://[::1/",
                "https://example.org\nX: y",
            )
        ),
        ("MAX_CONCURRENT_EXPORTS", "0", ">= 1"),
        ("MAX_CONCURRENT_EXPORTS", "many", "int"),
        ("MAX_QUEUED_EXPORTS", "0", ">= 1"),
        ("MAX_QUEUED_EXPORTS", "true", "int"),
        ("EXPORT_CONNECTIONS", "0", ">= 1"),
        ("GZIP_STREAMS", "0", ">= 1"),
        ("MAX_FOLLOWERS", "0", ">= 1"),
        ("MAX_FOLLOWERS", "-1", ">= 1"),
        ("MAX_FOLLOWERS", "2k", "int"),
        ("EXPORT_CURSOR", "COPY", "enum value"),
        ("EXPORT_CURSOR", "a\nb", "enum value"),
        ("LOG_FORMAT", "xml", "enum value"),
        ("DATABASE_WAIT", "soon", "60s, 5m or 24h"),
        ("DATABASE_WAIT", "-5", "60s, 5m or 24h"),
        ("DATABASE_WAIT", "5 m", "60s, 5m or 24h"),
        ("DATABASE_WAIT", "5w", "60s, 5m or 24h"),
        ("DATABASE_WAIT", "1e3", "60s, 5m or 24h"),
        ("DATABASE_WAIT", "inf", "60s, 5m or 24h"),
        ("DATABASE_WAIT", "1\n2", "60s, 5m or 24h"),
        ("ABANDON_AFTER", ".5s", "60s, 5m or 24h"),
        ("ABANDON_AFTER", "5M", "60s, 5m or 24h"),
        ("ABANDON_AFTER", "\u0665m", "60s, 5m or 24h"),
        ("FOLLOWER_STALL_TIMEOUT", "never", "60s, 5m or 24h"),
        ("FOLLOWER_STALL_TIMEOUT", "-1s", "60s, 5m or 24h"),
        ("FOLLOWER_STALL_TIMEOUT", "0", "more than 0"),
        ("FOLLOWER_STALL_TIMEOUT", "0s", "more than 0"),
        ("EXPORT_MAX_TIME", "0", "more than 0"),
        ("EXPORT_MAX_TIME", "long", "60s, 5m or 24h"),
        ("HISTORY_TTL", "0d", "more than 0"),
        ("HISTORY_TTL", "1000001d", "that a calendar can hold"),
        ("EXPORT_TTL", "9" * 400 + "d", "that a calendar can hold"),
        ("EXPORT_MAX_BYTES", "much", "64kB, 4MB or 20GB"),
        ("MAX_ROW_SIZE", "much", "64kB, 4MB or 20GB"),
        ("MAX_ROW_SIZE", "-1", "64kB, 4MB or 20GB"),
        ("MAX_ROW_SIZE", "MB", "64kB, 4MB or 20GB"),
        ("MAX_ROW_SIZE", "1.5MB", "64kB, 4MB or 20GB"),
        ("MAX_ROW_SIZE", "4M", "64kB, 4MB or 20GB"),
        ("MAX_ROW_SIZE", "4MiB", "64kB, 4MB or 20GB"),
        ("MAX_ROW_SIZE", "4mb", "64kB, 4MB or 20GB"),
        ("MAX_ROW_SIZE", "4KB", "64kB, 4MB or 20GB"),
        ("MAX_ROW_SIZE", "4  MB", "64kB, 4MB or 20GB"),
        ("MAX_ROW_SIZE", "4MB 1kB", "64kB, 4MB or 20GB"),
        ("MAX_ROW_SIZE", "4\nMB", "64kB, 4MB or 20GB"),
        ("MAX_ROW_SIZE", "1e6", "64kB, 4MB or 20GB"),
        ("MAX_ROW_SIZE", "\u0664MB", "64kB, 4MB or 20GB"),
        ("MAX_ROW_SIZE", "9" * 16, "64kB, 4MB or 20GB"),
        ("MAX_ROW_SIZE", "0", "64kB, 4MB or 20GB"),
        ("MAX_ROW_SIZE", "0MB", "64kB, 4MB or 20GB"),
        ("DATASETS", ",", "separated by commas"),
        ("DATASETS", "users,,orders", "separated by commas"),
        ("DATASETS", "users, ", "separated by commas"),
        ("DATASETS", " ", "separated by commas"),
        ("DATASETS", 'users,"orders', "every quote closed"),
        ("DATASETS", '"a"b",c', "every quote closed"),
        ("DATASET_ROLE", "none", "the name of a role"),
    ],
)
def test_wrong_value_is_one_line_that_names_the_variable(variable: str, text: str, allowed: str) -> None:
    with pytest.raises(StartError) as refused:
        read(**{variable: text})
    sentence = str(refused.value)
    assert sentence.startswith(f"{variable}: ")
    assert allowed in sentence
    assert sentence.isprintable()
    assert "$" not in sentence


@pytest.mark.parametrize("variable", [name.upper() for name in DEFAULTS], ids=str)
def test_empty_value_counts_as_unset(variable: str) -> None:
    assert getattr(read(**{variable: ""}), variable.lower()) == DEFAULTS[variable.lower()]


def test_empty_source_url_counts_as_unset() -> None:
    assert read(SOURCE_DATABASE_URL="").source_database() == read().database()


@pytest.mark.parametrize("environment", [{}, {"DATABASE_URL": ""}, {"DB_HOST": ""}, {"DB_NAME": "exports"}])
def test_missing_database_is_one_line_that_names_both_ways(environment: dict[str, str]) -> None:
    with pytest.raises(StartError, match=r"^DATABASE_URL: set it, or DB_HOST with DB_PORT") as refused:
        read_settings(environment)
    assert str(refused.value).isprintable()


def test_host_alone_gives_the_default_port_user_and_name() -> None:
    found = read_settings({"DB_HOST": "db"})
    database = found.database()
    assert database.addresses == (("db", 5432),)
    assert (database.user, database.password, database.database) == ("postgres", None, "postgres")
    assert database.setting == "DB_HOST"
    assert found.source_database() == database


def test_url_takes_precedence_over_host() -> None:
    assert read(DB_HOST="db", DB_PASSWORD="secret").database() == read().database()


def test_variables_of_an_unused_host_are_ignored() -> None:
    assert read(DB_HOST="db:1", DB_PORT="many").database() == read().database()


@settings(max_examples=100, deadline=None)
@given(*[st.text(st.sampled_from("@:/?#[]%&=+, '\\") | st.characters(codec="utf-8", min_codepoint=1), min_size=1)] * 3)
def test_user_password_and_name_are_passed_on_unchanged(user: str, password: str, name: str) -> None:
    found = read_settings({"DB_HOST": "db", "DB_USER": user, "DB_PASSWORD": password, "DB_NAME": name}).database()
    assert (found.user, found.password, found.database) == (user, password, name)
    assert found.addresses == (("db", 5432),)


@pytest.mark.parametrize("variable", ["DATABASE_URL", "SOURCE_DATABASE_URL"])
def test_refused_url_is_named_by_its_setting(variable: str) -> None:
    with pytest.raises(StartError, match=f"^{variable}: sslmode: Expected disable, allow"):
        read(**{variable: "postgresql://db/exports?sslmode=perhaps"})


def test_other_variables_are_ignored() -> None:
    assert read(PATH="/bin", API_PORTS="1", api_port="1") == read()


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        read().api_port = 1  # type: ignore[misc]
