"""Settings from the environment: the values of each, and the one line a user reads when a value is not allowed."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.config import AUTO, LogFormat, Settings, described_settings, name_remarks, read_settings
from streamer.errors import StartError
from streamer.source.source import CursorChoice

URL = "postgresql://localhost/exports"
DEFAULTS = {
    "api_host": ("127.0.0.1",),
    "api_port": 8080,
    "public_url": "",
    "database_startup_timeout": 60.0,
    "datasets": ("users",),
    "export_storage_path": Path("spool"),
    "export_method": CursorChoice.AUTO,
    "export_connections": AUTO,
    "max_concurrent_exports": 3,
    "max_queued_exports": 100,
    "max_downloads": 1000,
    "download_stall_timeout": 60.0,
    "compressions": 4,
    "max_row_size": 2 * 1024 * 1024,
    "abandoned_export_timeout": 60.0,
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
        ("EXPORT_METHOD", "copy", CursorChoice.COPY),
        ("EXPORT_METHOD", "fetch", CursorChoice.FETCH),
        ("MAX_CONCURRENT_EXPORTS", "1", 1),
        ("MAX_QUEUED_EXPORTS", "5000", 5000),
        ("EXPORT_METHOD", "blocks", CursorChoice.BLOCKS),
        ("EXPORT_CONNECTIONS", "1", 1),
        ("EXPORT_CONNECTIONS", "16", 16),
        ("EXPORT_CONNECTIONS", "auto", AUTO),
        ("COMPRESSIONS", "64", 64),
        ("MAX_DOWNLOADS", "1", 1),
        ("MAX_DOWNLOADS", "10000", 10_000),
        ("LOG_FORMAT", "json", LogFormat.JSON),
        ("DATASETS", "users", ("users",)),
        ("DATASETS", "users,public.orders", ("users", "public.orders")),
        ("DATASETS", " users , orders ", ("users", "orders")),
        ("DATASETS", "users,sales.*", ("users", "sales.*")),
        ("DATASETS", '"Order, Lines","a""b".c , d', ('"Order, Lines"', '"a""b".c', "d")),
        ("DATASETS_FILE", "/etc/datasets.toml", Path("/etc/datasets.toml")),
        ("DATASET_ROLE", "reader", "reader"),
        ("DATASET_ROLE", "None", "None"),
        ("DATABASE_STARTUP_TIMEOUT", "90", 90.0),
        ("DATABASE_STARTUP_TIMEOUT", "0", 0.0),
        ("DATABASE_STARTUP_TIMEOUT", "1.5", 1.5),
        ("ABANDONED_EXPORT_TIMEOUT", "250ms", 0.25),
        ("ABANDONED_EXPORT_TIMEOUT", "60s", 60.0),
        ("ABANDONED_EXPORT_TIMEOUT", "5m", 300.0),
        ("ABANDONED_EXPORT_TIMEOUT", "24h", 86_400.0),
        ("ABANDONED_EXPORT_TIMEOUT", "7d", 604_800.0),
        ("ABANDONED_EXPORT_TIMEOUT", "0.5h", 1800.0),
        ("ABANDONED_EXPORT_TIMEOUT", " 5m ", 300.0),
        ("DOWNLOAD_STALL_TIMEOUT", "2s", 2.0),
        ("DOWNLOAD_STALL_TIMEOUT", "1h", 3600.0),
        ("MAX_ROW_SIZE", "65536", 65_536),
        ("MAX_ROW_SIZE", "65536B", 65_536),
        ("MAX_ROW_SIZE", "64kB", 65_536),
        ("MAX_ROW_SIZE", "64 kB", 65_536),
        ("MAX_ROW_SIZE", "4MB", 4 * 1024**2),
        ("MAX_ROW_SIZE", " 4MB ", 4 * 1024**2),
        ("MAX_ROW_SIZE", "20GB", 20 * 1024**3),
        ("MAX_ROW_SIZE", "1TB", 1024**4),
        ("MAX_ROW_SIZE", "4mb", 4 * 1024**2),
        ("MAX_ROW_SIZE", "64KB", 65_536),
        ("SPOOL_MAX_BYTES", "10gb", 10 * 1024**3),
    ],
)
def test_value_is_parsed_for_its_setting(variable: str, text: str, value: object) -> None:
    assert getattr(read(**{variable: text}), variable.lower()) == value


@pytest.mark.parametrize(
    ("variable", "text", "allowed"),
    [
        ("API_HOST", "127.0.0.1,", "separated by commas"),
        ("API_HOST", ",", "separated by commas"),
        ("API_PORT", "http", "0 to 65535"),
        ("API_PORT", "-1", "0 to 65535"),
        ("API_PORT", "65536", "0 to 65535"),
        ("API_PORT", "8080.5", "0 to 65535"),
        ("API_PORT", "9" * 400, "0 to 65535"),
        ("API_PORT", "80\n80", "0 to 65535"),
        ("API_PORT", "\uff18\uff10", "0 to 65535"),
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
        ("MAX_CONCURRENT_EXPORTS", "0", "a number of at least 1"),
        ("MAX_CONCURRENT_EXPORTS", "many", "a number of at least 1"),
        ("MAX_QUEUED_EXPORTS", "0", "a number of at least 1"),
        ("MAX_QUEUED_EXPORTS", "true", "a number of at least 1"),
        *(
            ("EXPORT_CONNECTIONS", text, "auto, or a number of at least 1")
            for text in ("0", "-1", "1.5", "Auto", "many", "\u0661", "9" * 400)
        ),
        ("COMPRESSIONS", "0", "a number of at least 1"),
        ("MAX_DOWNLOADS", "0", "a number of at least 1"),
        ("MAX_DOWNLOADS", "-1", "a number of at least 1"),
        ("MAX_DOWNLOADS", "2k", "a number of at least 1"),
        ("EXPORT_METHOD", "COPY", "auto, blocks, copy or fetch"),
        ("EXPORT_METHOD", "a\nb", "auto, blocks, copy or fetch"),
        ("LOG_FORMAT", "xml", "text or json"),
        ("DATABASE_STARTUP_TIMEOUT", "soon", "60s, 5m or 24h"),
        ("DATABASE_STARTUP_TIMEOUT", "-5", "60s, 5m or 24h"),
        ("DATABASE_STARTUP_TIMEOUT", "5 m", "60s, 5m or 24h"),
        ("DATABASE_STARTUP_TIMEOUT", "5w", "60s, 5m or 24h"),
        ("DATABASE_STARTUP_TIMEOUT", "1e3", "60s, 5m or 24h"),
        ("DATABASE_STARTUP_TIMEOUT", "inf", "60s, 5m or 24h"),
        ("DATABASE_STARTUP_TIMEOUT", "1\n2", "60s, 5m or 24h"),
        ("ABANDONED_EXPORT_TIMEOUT", ".5s", "60s, 5m or 24h"),
        ("ABANDONED_EXPORT_TIMEOUT", "5M", "60s, 5m or 24h"),
        ("ABANDONED_EXPORT_TIMEOUT", "\u0665m", "60s, 5m or 24h"),
        ("DOWNLOAD_STALL_TIMEOUT", "never", "60s, 5m or 24h"),
        ("DOWNLOAD_STALL_TIMEOUT", "-1s", "60s, 5m or 24h"),
        ("DOWNLOAD_STALL_TIMEOUT", "0", "more than 0"),
        ("DOWNLOAD_STALL_TIMEOUT", "0s", "more than 0"),
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
        ("MAX_ROW_SIZE", "4\u212ab", "64kB, 4MB or 20GB"),
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
    assert sentence.startswith(f"{variable} must be ")
    assert allowed in sentence
    assert "Expected" not in sentence
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
    with pytest.raises(StartError, match=f"^{variable}: sslmode must be disable, allow"):
        read(**{variable: "postgresql://db/exports?sslmode=perhaps"})


def test_other_variables_are_ignored() -> None:
    assert read(PATH="/bin", API_PORTS="1", api_port="1") == read()


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        read().api_port = 1  # type: ignore[misc]


FORMER_NAMES = [
    ("MAX_FOLLOWERS", "MAX_DOWNLOADS", "7", 7),
    ("FOLLOWER_STALL_TIMEOUT", "DOWNLOAD_STALL_TIMEOUT", "7s", 7.0),
    ("SHUTDOWN_GRACE", "SHUTDOWN_TIMEOUT", "7s", 7.0),
    ("DATABASE_WAIT", "DATABASE_STARTUP_TIMEOUT", "7s", 7.0),
    ("ABANDON_AFTER", "ABANDONED_EXPORT_TIMEOUT", "7s", 7.0),
    ("EXPORT_CURSOR", "EXPORT_METHOD", "copy", CursorChoice.COPY),
    ("GZIP_STREAMS", "COMPRESSIONS", "7", 7),
]


@pytest.mark.parametrize(("former", "name", "text", "value"), FORMER_NAMES)
def test_a_former_name_still_works_and_is_remarked_on(former: str, name: str, text: str, value: object) -> None:
    assert getattr(read(**{former: text}), name.lower()) == value
    assert name_remarks({former: text}) == [f"{former} is called {name} now; the old name still works"]


@pytest.mark.parametrize(("former", "name", "text", "value"), FORMER_NAMES)
def test_both_names_with_the_same_value_are_allowed(former: str, name: str, text: str, value: object) -> None:
    assert getattr(read(**{former: text, name: text}), name.lower()) == value


@pytest.mark.parametrize(("former", "name"), [(former, name) for former, name, _, _ in FORMER_NAMES])
def test_both_names_with_different_values_are_refused(former: str, name: str) -> None:
    with pytest.raises(
        StartError, match=f"^{former} is the former name of {name}, and both are set, .*; remove {former}$"
    ):
        read(**{former: "8", name: "9"})


def test_a_wrong_value_is_named_by_the_former_name_it_was_given_under() -> None:
    with pytest.raises(StartError, match=r"^MAX_FOLLOWERS"):
        read(MAX_FOLLOWERS="none")


def test_an_empty_former_name_counts_as_unset_and_is_not_remarked_on() -> None:
    assert read(MAX_FOLLOWERS="", MAX_DOWNLOADS="9").max_downloads == 9
    assert name_remarks({"MAX_FOLLOWERS": "", "MAX_DOWNLOADS": "9"}) == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [("MAX_CONCURENT_EXPORTS", "MAX_CONCURRENT_EXPORTS"), ("DATASET", "DATASETS"), ("EXPORT_TTLS", "EXPORT_TTL")],
)
def test_a_misspelt_name_is_remarked_on(name: str, meant: str) -> None:
    assert name_remarks({name: "1"}) == [f"{name} is not a setting; did you mean {meant}?"]


@pytest.mark.parametrize(
    "name", ["EXPORT_TTL", "MAX_RETRIES", "PATH", "API_KEY", "DATABASE_NAME", "EXPORT", "DB_SSLMODE"]
)
def test_a_setting_and_a_variable_of_another_program_are_not_remarked_on(name: str) -> None:
    assert name_remarks({name: "1"}) == []


def test_former_names_are_the_described_aliases() -> None:
    described = {(alias, setting.name) for setting in described_settings() for alias in setting.aliases}
    assert described == {(former, name) for former, name, _, _ in FORMER_NAMES}


def test_each_setting_is_described_in_one_to_three_sentences() -> None:
    for setting in described_settings():
        assert setting.meaning.endswith(".")
        assert 1 <= setting.meaning.count(". ") + 1 <= 3, setting.name


def test_settings_of_one_group_stand_together_and_ten_settings_are_essential() -> None:
    groups = [group for group, _ in itertools.groupby(described_settings(), lambda setting: setting.group)]
    assert groups == ["Database", "Datasets", "Network", "Exports", "Downloads", "Storage", "Process"]
    assert sum(setting.essential for setting in described_settings()) == 10


def test_described_defaults_are_the_values_of_the_settings() -> None:
    environment = {setting.name: setting.default for setting in described_settings()}
    assert read(**{**environment, "DATABASE_URL": URL}) == read()


@pytest.mark.parametrize(
    ("variable", "text", "sentence"),
    [
        ("API_PORT", "99999", "API_PORT must be 0 to 65535, not '99999'"),
        ("EXPORT_METHOD", "fast", "EXPORT_METHOD must be auto, blocks, copy or fetch, not 'fast'"),
        ("EXPORT_CURSOR", "fast", "EXPORT_CURSOR must be auto, blocks, copy or fetch, not 'fast'"),
        ("MAX_DOWNLOADS", "0", "MAX_DOWNLOADS must be a number of at least 1, not '0'"),
        ("EXPORT_TTL", "1y", "EXPORT_TTL must be a duration such as 60s, 5m or 24h, not '1y'"),
        (
            "SPOOL_MAX_BYTES",
            "10 gigabytes",
            "SPOOL_MAX_BYTES must be a size such as 64kB, 4MB or 20GB, not '10 gigabytes'",
        ),
        ("LOG_FORMAT", "a\nb", "LOG_FORMAT must be text or json, not 'a\\nb'"),
    ],
)
def test_a_wrong_value_is_said_with_what_is_allowed(variable: str, text: str, sentence: str) -> None:
    with pytest.raises(StartError) as refused:
        read(**{variable: text})
    assert str(refused.value) == sentence


def test_a_password_in_a_wrong_url_is_not_repeated() -> None:
    with pytest.raises(StartError, match=r"^PUBLIC_URL must be ") as refused:
        read(PUBLIC_URL="https://user:hunter2@example.org/")
    assert "hunter2" not in str(refused.value)


def test_options_win_over_the_environment_and_name_themselves() -> None:
    environment = {"DATABASE_URL": URL, "API_PORT": "1", "API_HOST": "h"}
    found = read_settings(environment, {"API_PORT": "2", "API_HOST": "127.0.0.1,::1"})
    assert (found.api_port, found.api_host) == (2, ("127.0.0.1", "::1"))
    with pytest.raises(StartError, match=r"^--host must be host names or addresses .*, not ','$"):
        read_settings(environment, {"API_HOST": ","})


@pytest.mark.parametrize(
    ("content", "password"), [(b"p", "p"), (b"p\n", "p"), (b"p\r\n", "p"), (b"p\n\n", "p\n"), (b" p \n", " p ")]
)
def test_the_password_is_read_from_its_file_without_one_line_break(
    tmp_path: Path, content: bytes, password: str
) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    assert read_settings({"DB_HOST": "h", "DB_PASSWORD_FILE": str(file)}).database().password == password


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "DB_PASSWORD_FILE: {file} cannot be read: No such file or directory"),
        (b"", "DB_PASSWORD_FILE: {file} is empty"),
        (b"\n", "DB_PASSWORD_FILE: {file} is empty"),
        (b"hunter2\xff", "DB_PASSWORD_FILE: {file} is not UTF-8"),
    ],
)
def test_an_unusable_password_file_is_one_sentence(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StartError) as refused:
        read_settings({"DB_HOST": "h", "DB_PASSWORD_FILE": str(file)})
    assert str(refused.value) == sentence.format(file=file)


def test_a_password_and_a_file_of_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"^DB_PASSWORD and DB_PASSWORD_FILE are both set; remove one of them$"):
        read_settings({"DB_HOST": "h", "DB_PASSWORD": "p", "DB_PASSWORD_FILE": str(tmp_path / "none")})


def test_a_password_file_beside_a_url_is_ignored_like_all_parts(tmp_path: Path) -> None:
    assert read(DB_PASSWORD="p", DB_PASSWORD_FILE=str(tmp_path / "none")).database() == read().database()
