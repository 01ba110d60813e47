"""The parameters of a URL or of the DB_ settings: rows of (input, parameters) and of (input, sentence)."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamer.errors import StartError
from streamer.postgres.conninfo import VARIABLES, ConnectionParameters, from_parts, from_url

SECRET = "hunter2"
SOCKETS = (("/var/run/postgresql", 5432), ("/tmp", 5432))


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in (*VARIABLES.values(), "PGSERVICE", "PGSERVICEFILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def read(url: str) -> ConnectionParameters:
    return from_url(url, "DATABASE_URL")


def refusal(url: str) -> str:
    with pytest.raises(StartError) as refused:
        read(url)
    sentence = str(refused.value)
    assert re.match(r"DATABASE_URL(?:: \w+)* (?:must|is|has|contradicts|cannot) ", sentence), sentence
    assert sentence.isprintable()
    assert SECRET not in sentence
    return sentence.removeprefix("DATABASE_URL: ").removeprefix("DATABASE_URL ")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@h:1/d", {"addresses": (("h", 1),), "user": "u", "password": "p", "database": "d"}),
        ("postgres://h", {"addresses": (("h", 5432),), "user": None, "password": None, "database": None}),
        ("POSTGRESQL://h/", {"addresses": (("h", 5432),), "database": None}),
        ("postgresql+asyncpg://h/d", {"addresses": (("h", 5432),), "database": "d"}),
        ("postgresql+psycopg2://h/d", {"addresses": (("h", 5432),), "database": "d"}),
        ("postgres+psycopg://h/d", {"addresses": (("h", 5432),), "database": "d"}),
        ("postgresql://u:@h/d", {"user": "u", "password": None}),
        ("postgresql://u:p:q@h/d", {"password": "p:q"}),
        ("postgresql://a%40b:%2F%3F%23%25%20%C3%A9+@h/my%20%2Fdata", {"user": "a@b", "password": "/?#% é+"}),
        ("postgresql://h/my%20%2Fdata", {"database": "my /data"}),
        ("postgresql://u@h/a@b", {"user": "u", "database": "a@b"}),
        ("postgresql://h1:1,h2:2/d", {"addresses": (("h1", 1), ("h2", 2))}),
        ("postgresql://h1,h2:2/d", {"addresses": (("h1", 5432), ("h2", 2))}),
        ("postgresql://h1,h2/d?port=7", {"addresses": (("h1", 7), ("h2", 7))}),
        ("postgresql://[::1]:1,127.0.0.1/d", {"addresses": (("::1", 1), ("127.0.0.1", 5432))}),
        ("postgresql://[fe80::1%25eth0]/d", {"addresses": (("fe80::1%eth0", 5432),)}),
        ("postgresql://%2Fa%20folder:1/d", {"addresses": (("/a folder", 1),)}),
        ("postgresql:///d?host=/a/folder&port=1", {"addresses": (("/a/folder", 1),)}),
        ("postgresql://:1/d?host=/a/folder", {"addresses": (("/a/folder", 1),)}),
        ("postgresql://?host=h1,h2&port=1,2", {"addresses": (("h1", 1), ("h2", 2))}),
        ("postgresql://u:p@/d", {"addresses": SOCKETS, "password": "p"}),
        ("postgresql://:7", {"addresses": (("/var/run/postgresql", 7), ("/tmp", 7))}),
        ("postgresql://h?user=a@b&password=p&dbname=d", {"user": "a@b", "password": "p", "database": "d"}),
        ("postgresql://h/?database=d", {"database": "d"}),
        ("postgresql://h?target_session_attrs=primary", {"target_session_attrs": "primary", "server_settings": {}}),
        ("postgresql://h?load_balance_hosts=random", {"load_balance": True}),
        ("postgresql://h?load_balance_hosts=disable", {"load_balance": False, "remarks": ()}),
        ("postgresql://h?connect_timeout=7", {"connect_timeout": 7.0}),
        ("postgresql://h?connect_timeout=0", {"connect_timeout": None}),
        ("postgresql://h?connect_timeout=-1", {"connect_timeout": None}),
        ("postgresql://h?connect_timeout=", {"connect_timeout": None}),
        ("postgresql://h?passfile=/a/b&krbsrvname=x&gsslib=gssapi", {"passfile": "/a/b", "krbsrvname": "x"}),
        ("postgresql://h?application_name=x", {"server_settings": {"application_name": "x"}}),
        ("postgresql://h?options=-c%20a%3D1", {"server_settings": {"options": "-c a=1"}}),
        ("postgresql://h?options=-c+a=1", {"server_settings": {"options": "-c+a=1"}}),
        ("postgresql://h?search_path=a&x.y=1", {"server_settings": {"search_path": "a", "x.y": "1"}}),
        ("postgresql://h?ssl=true", {"tls": {"sslmode": "require"}}),
        ("postgresql://h?sslmode=verify-ca&sslrootcert=/a", {"tls": {"sslmode": "verify-ca", "sslrootcert": "/a"}}),
        ("postgresql://h?sslrootcert=system", {"tls": {"sslmode": "verify-full", "sslrootcert": "system"}}),
        ("postgresql://h?sslnegotiation=postgres", {"tls": {"sslnegotiation": "postgres"}, "remarks": ()}),
        ("postgresql://h?gssencmode=disable&channel_binding=disable&sslsni=1&client_encoding=UTF8", {"remarks": ()}),
        ("postgresql://h?keepalives=0&gssencmode=prefer", {"remarks": ("without effect: gssencmode, keepalives",)}),
        ("postgresql://h?channel_binding=prefer", {"tls": {}, "remarks": ("without effect: channel_binding",)}),
        ("postgresql://h?tcp_user_timeout=1&keepalives_idle=1&keepalives_count=1", {"server_settings": {}}),
    ],
)
def test_url_gives_the_parameters(url: str, expected: Mapping[str, Any]) -> None:
    found = read(url)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"mysql://u:{SECRET}@h/d", "must be a URL such as postgresql://"),
        (f"jdbc:postgresql://u:{SECRET}@h/d", "must be a URL such as postgresql://"),
        (f" postgresql://u:{SECRET}@h/d", "must be a URL such as postgresql://"),
        ("postgresql:/h/d", "must be a URL such as postgresql://"),
        ("postgresql+://h/d", "must be a URL such as postgresql://"),
        (f"host=h user=u password={SECRET}", "must be a URL such as postgresql://"),
        (f"postgresql://u:x@{SECRET}@h/d", "%40 for @"),
        (f"postgresql://u:x@@{SECRET}/d", "%40 for @"),
        (f"postgresql://u:{SECRET}/x@h/d", "%2F for /"),
        (f"postgresql://u:1/{SECRET}@h/d", "%2F for /"),
        (f"postgresql://u:1?{SECRET}@h/d", "%40 for @"),
        (f"postgresql://u:{SECRET}#x@h/d", "%23"),
        (f"postgresql://u:{SECRET}%@h/d", "%25"),
        (f"postgresql://u:{SECRET}%zz@h/d", "%25"),
        (f"postgresql://u:{SECRET}%00@h/d", "%25"),
        (f"postgresql://u:{SECRET}%FF@h/d", "must be UTF-8"),
        (f"postgresql://u:{SECRET}\udcff@h/d", "must be UTF-8"),
        (f"postgresql://u:{SECRET}@h:port/d", "must have a port from 1 to 65535"),
        (f"postgresql://u:{SECRET}@h:70000/d", "must have a port from 1 to 65535"),
        (f"postgresql://u:{SECRET}@h:0/d", "must have a port from 1 to 65535"),
        (f"postgresql://u:{SECRET}@::1/d", "IPv6 address is in brackets"),
        (f"postgresql://u:{SECRET}@[::1/d", "IPv6 address is in brackets"),
        (f"postgresql://u:{SECRET}@[h]/d", "only an IPv6 address is in brackets"),
        (f"postgresql://u:{SECRET}@h1,,h2/d", "must be a host name"),
        (f"postgresql://u:{SECRET}@h 1/d", "must be a host name"),
        (f"postgresql://u:{SECRET}@h%2Ch2/d", "must be a host name"),
        (f"postgresql://u:{SECRET}@%2Ffolder%2Ch2/d", "without a comma"),
        (f"postgresql://u:{SECRET}@%40name/d", "abstract socket"),
        (f"postgresql://u:{SECRET}@/d?host=h:1", "host must be a host without its port"),
        (f"postgresql://u:{SECRET}@/d?host=h&port=1,2", "port must be one port, or as many as there are hosts: 1"),
        (f"postgresql://u:{SECRET}@/d?host=@name", "host must be the folder of a socket; an abstract socket"),
        (f"postgresql://u:{SECRET}@h/d?host=h2", "must not have host twice"),
        (f"postgresql://u:{SECRET}@h/d?user=v", "must not have user twice"),
        (f"postgresql://u:x@h/d?password={SECRET}", "must not have password twice"),
        (f"postgresql://h/d?sslmode=require&ssl=true&password={SECRET}", "must not have sslmode twice"),
        (f"postgresql://u:{SECRET}@h/d?sslmode", "must have parameters such as"),
        (f"postgresql://u:{SECRET}@h/d?=x", "must have parameters such as"),
        (f"postgresql://u:{SECRET}@h/d?a=b&&c=d", "must have parameters such as"),
        (f"postgresql://u:{SECRET}@h/d?a b=c", "must have parameters such as"),
        (
            "postgresql://h?sslmode=perhaps",
            "sslmode must be disable, allow, prefer, require, verify-ca or",
        ),
        ("postgresql://h?sslmode=verify_full", "sslmode must be disable,"),
        ("postgresql://h?sslnegotiation=x", "sslnegotiation must be postgres or direct"),
        ("postgresql://h?sslnegotiation=direct", "sslnegotiation must not be direct without sslmode=require"),
        ("postgresql://h?ssl_min_protocol_version=SSLv3", "ssl_min_protocol_version must be TLSv1,"),
        ("postgresql://h?target_session_attrs=x", "target_session_attrs must be any, primary"),
        ("postgresql://h?load_balance_hosts=x", "load_balance_hosts must be disable or random"),
        ("postgresql://h?gsslib=x", "gsslib must be gssapi or sspi"),
        ("postgresql://h?connect_timeout=soon", "connect_timeout must be a number of seconds"),
        ("postgresql://h?connect_timeout=1.5", "connect_timeout must be a number of seconds"),
        ("postgresql://h?channel_binding=x", "channel_binding must be disable, prefer or require"),
        ("postgresql://h?channel_binding=require&sslmode=disable", "channel_binding contradicts sslmode=disable"),
        ("postgresql://h?sslrootcert=system&sslmode=require", "sslmode must be verify-full with sslrootcert=system"),
        ("postgresql://h?require_auth=scram-sha-256", "require_auth is not supported by the driver"),
        ("postgresql://h?requirepeer=postgres", "requirepeer is not supported by the driver"),
        ("postgresql://h?hostaddr=10.0.0.1", "hostaddr is not supported by the driver"),
        ("postgresql://h?sslcrldir=/a", "sslcrldir is not supported by the driver"),
        (
            "postgresql://h?gssencmode=require",
            "gssencmode is not supported by the driver, other than disable or",
        ),
        ("postgresql://h?client_encoding=LATIN1", "client_encoding is not supported by the driver, other than UTF8"),
        ("postgresql://h?replication=database", "replication is not supported by the driver"),
        ("postgresql://h?sslsni=0", "sslsni is not supported by the driver, other than 1"),
        ("postgresql://h?sslcertmode=require", "sslcertmode is not supported by the driver"),
        ("postgresql://h?service=nowhere", "service cannot be found in "),
    ],
)
def test_url_is_refused_with_the_name_of_the_invalid_parameter(url: str, said: str) -> None:
    assert said in refusal(url)


@pytest.mark.parametrize("mode", ["", "&sslmode=allow", "&sslmode=prefer", "&sslmode=require", "&sslmode=verify-full"])
def test_required_channel_binding_verifies_the_certificate_instead_and_says_so(mode: str) -> None:
    found = read(f"postgresql://u:{SECRET}@h/d?channel_binding=require{mode}")
    assert found.tls == {"sslmode": "verify-full", "sslrootcert": "system"}
    assert [remark.partition(":")[0] for remark in found.remarks] == ["channel_binding"]


def test_required_channel_binding_keeps_the_configured_authority(tmp_path: Path) -> None:
    found = read("postgresql://h?sslmode=verify-ca&sslrootcert=/a&channel_binding=require")
    assert found.tls == {"sslmode": "verify-ca", "sslrootcert": "/a"}
    (tmp_path / ".postgresql").mkdir()
    (tmp_path / ".postgresql" / "root.crt").touch()
    assert read("postgresql://h?channel_binding=require").tls == {"sslmode": "verify-full"}


def test_a_password_is_in_no_representation() -> None:
    assert SECRET not in repr(read(f"postgresql://u:{SECRET}@h/d?sslpassword={SECRET}&options={SECRET}"))


@given(st.text(st.sampled_from("@:/?#[]%&=+, \\'\0a")))
@example("u:p@h")
def test_any_text_after_the_scheme_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        outcome = str(read(f"postgresql://{text}").addresses)
    except StartError as error:
        outcome = str(error)
    assert outcome
    assert outcome.isprintable()


# DB_HOST and its companions


def parts(**given: str) -> ConnectionParameters:
    return from_parts(**{"host": "h", "port": "5432", "user": "u", "password": "", "name": "d"} | given)


def test_parts_are_not_decoded() -> None:
    found = parts(host="::1,/a/folder", port="1,2", user="a@b", password="p/w?#% é", name="n:a@m/e")
    assert found.addresses == (("::1", 1), ("/a/folder", 2))
    assert (found.user, found.password, found.database) == ("a@b", "p/w?#% é", "n:a@m/e")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"host": "h:1"}, "DB_HOST must be a host without its port"),
        ({"host": " "}, "DB_HOST must be a host name"),
        ({"host": f"u:{SECRET}@h"}, "DB_HOST must be a host name"),
        ({"host": "@name"}, "DB_HOST must be the folder of a socket; an abstract socket"),
        ({"port": "http"}, "DB_PORT must be a number from 1 to 65535"),
        ({"port": "1,2"}, "DB_PORT must be one port, or as many as there are hosts: 1"),
        ({"user": "u\udcff"}, "DB_USER must be UTF-8"),
        ({"password": f"{SECRET}\udcff"}, "DB_PASSWORD must be UTF-8"),
        ({"name": "d\0"}, "DB_NAME must be UTF-8"),
    ],
)
def test_a_part_is_refused_by_its_own_name(given: Mapping[str, str], sentence: str) -> None:
    with pytest.raises(StartError, match=f"^{sentence}") as refused:
        parts(**given)
    assert SECRET not in str(refused.value)


# Parameters that the setting does not contain


def test_variables_of_libpq_complete_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, text in {"PGHOST": "x,y", "PGPORT": "7", "PGUSER": "v", "PGPASSWORD": "w", "PGDATABASE": "z"}.items():
        monkeypatch.setenv(variable, text)
    found = read("postgresql://")
    assert found.addresses == (("x", 7), ("y", 7))
    assert (found.user, found.password, found.database) == ("v", "w", "z")
    assert read("postgresql://h:1").addresses == (("h", 1),)
    assert read("postgresql://u:p@h/d").user == "u"
    assert parts(user="u", password="p").addresses == (("h", 5432),)
    assert parts(password="").password == "w"


def test_variables_of_libpq_complete_db_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "require")
    assert parts().tls == {"sslmode": "require"}
    assert read("postgresql://h?sslmode=disable").tls == {"sslmode": "disable"}


def test_an_invalid_variable_is_refused_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "perhaps")
    with pytest.raises(StartError, match=r"^PGSSLMODE must be disable"):
        parts()


def test_a_service_completes_the_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".pg_service.conf").write_text("[ours]\nhost=x\nuser=v\npassword=p%w\nsslmode=\n", encoding="utf-8")
    monkeypatch.setenv("PGUSER", "environment")
    found = read("postgresql://?service=ours")
    assert (found.addresses, found.user, found.password) == ((("x", 5432),), "v", "p%w")
    assert read("postgresql://u@h?service=ours").addresses == (("h", 5432),)
    assert read("postgresql://u@h?service=ours").user == "u"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.mkdir(), ": Is a directory"),
        (lambda path: path.write_text(f"password={SECRET}\n", encoding="utf-8"), "is not a service file"),
        (lambda path: path.write_text("[theirs]\n", encoding="utf-8"), "cannot be found in"),
    ],
    ids=["unreadable", "damaged", "another"],
)
def test_an_unusable_service_file_is_refused_with_its_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    make(tmp_path / "services")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    complaint = refusal("postgresql://h?service=ours")
    assert said in complaint
    assert SECRET not in complaint


def test_a_service_is_refused_by_its_parameter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "services").write_text("[ours]\nrequire_auth=md5\n", encoding="utf-8")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    assert refusal("postgresql://h?service=ours").startswith("service: require_auth is not supported")
