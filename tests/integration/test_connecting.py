"""Connections by Unix socket, TCP and TLS to a real PostgreSQL: addresses, certificates, and permanent errors."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from streamer.config import read_settings
from streamer.errors import StartError
from streamer.postgres.conninfo import ConnectionParameters
from streamer.postgres.pool import connect
from tests.integration.tlsfront import make_certificate, tls_front
from tests.ports import free_port
from tests.proxy import proxied

NAME = "SOURCE_DATABASE_URL"
SECRET = "hunter2"
WAIT = 60.0  # seconds to wait for temporary failures
AT_ONCE = 10.0  # seconds


@asynccontextmanager
async def connected(database: str | ConnectionParameters) -> AsyncIterator["asyncpg.Pool[asyncpg.Record]"]:
    pool = await connect(database, name=NAME, size=1, wait=WAIT)
    try:
        yield pool
    finally:
        await pool.close()


async def refusal(database: str | ConnectionParameters, wait: float = WAIT, within: float = AT_ONCE) -> str:
    """The line that a start ends with, without the name of the setting."""
    async with asyncio.timeout(within):
        with pytest.raises(StartError) as refused:
            await connect(database, name=NAME, size=1, wait=wait)
    line = str(refused.value)
    assert line.startswith(f"{NAME}: ")
    assert line.isprintable()
    assert SECRET not in line
    return line.removeprefix(f"{NAME}: ")


@contextmanager
def listening() -> Iterator[socket.socket]:
    """A port of this machine to which connections can be made; none is accepted unless the test does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def assert_nothing_came(server: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        server.accept()


def name_of(database: str) -> str:
    return urlsplit(database).path.removeprefix("/")


def folder_of(database: str) -> str:
    """The folder of the server's socket."""
    folder = parse_qs(urlsplit(database).query).get("host", [""])[0]
    if not folder.startswith("/"):
        pytest.skip("this server is not reached by a socket")
    return folder


def adding(database: str, parameters: str) -> str:
    return f"{database}{'&' if urlsplit(database).query else '?'}{parameters}"


def port_of(server: socket.socket) -> str:
    return str(server.getsockname()[1])


# Addresses


async def test_db_host_may_be_the_folder_of_a_socket(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as elsewhere:
        monkeypatch.setenv("PGPORT", port_of(elsewhere))
        environment = {"DB_HOST": folder_of(database), "DB_PASSWORD": SECRET, "DB_NAME": name_of(database)}
        async with connected(read_settings(environment).database()) as pool:
            assert await pool.fetchval("SELECT current_database()") == name_of(database)
            assert await pool.fetchval("SELECT inet_client_addr()") is None
        assert_nothing_came(elsewhere)


async def test_a_folder_without_a_socket_is_named_and_never_replaced_by_localhost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening() as elsewhere:
        monkeypatch.setenv("PGPORT", port_of(elsewhere))
        environment = {"DB_HOST": str(tmp_path), "DB_PORT": port_of(elsewhere), "DB_PASSWORD": SECRET}
        line = await refusal(read_settings(environment).database(), wait=0)
        assert f"{tmp_path}/.s.PGSQL.{port_of(elsewhere)}" in line
        assert_nothing_came(elsewhere)


async def test_a_url_without_a_host_never_uses_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as elsewhere:
        await refusal(f"postgresql://u:{SECRET}@:{port_of(elsewhere)}/d", wait=0)
        monkeypatch.setenv("PGPORT", port_of(elsewhere))
        await refusal(f"postgresql://u:{SECRET}@/d", wait=0)
        assert_nothing_came(elsewhere)


async def test_the_hosts_of_db_host_are_tried_in_order(database: str) -> None:
    async with proxied(database) as proxy:
        ports = f"{free_port()},{urlsplit(proxy.url).port}"
        environment = {"DB_HOST": "::1,127.0.0.1", "DB_PORT": ports, "DB_NAME": name_of(database)}
        async with connected(read_settings(environment).database()) as pool:
            assert await pool.fetchval("SELECT current_database()") == name_of(database)


async def test_a_host_that_never_answers_does_not_use_up_the_timeout_of_the_next(database: str) -> None:
    with listening() as silent:
        hosts = f"127.0.0.1,{folder_of(database)}"
        ports = f"{port_of(silent)},5432"
        url = f"postgresql:///{name_of(database)}?user=postgres&host={hosts}&port={ports}&connect_timeout=1"
        async with asyncio.timeout(AT_ONCE), connected(url) as pool:
            assert await pool.fetchval("SELECT current_database()") == name_of(database)


async def test_the_first_primary_of_several_hosts_is_used(database: str) -> None:
    url = adding(database, "target_session_attrs=primary").replace(
        folder_of(database), f"/nowhere,{folder_of(database)}"
    )
    async with connected(url) as pool:
        assert await pool.fetchval("SELECT pg_is_in_recovery()") is False


async def test_a_primary_is_used_if_the_preferred_standby_does_not_exist(database: str) -> None:
    async with connected(adding(database, "target_session_attrs=prefer-standby&load_balance_hosts=random")) as pool:
        assert await pool.fetchval("SELECT pg_is_in_recovery()") is False


async def test_a_missing_primary_ends_the_start_after_the_wait(database: str, caplog: pytest.LogCaptureFixture) -> None:
    line = await refusal(adding(database, "target_session_attrs=standby"), wait=0.5)
    assert line.endswith(" is not target_session_attrs=standby (waited 0.5 s)")
    assert f"{NAME}: waiting for the database: {line.removesuffix(' (waited 0.5 s)')}" in caplog.text


async def test_the_password_of_one_host_in_a_password_file_is_not_sent_to_another(
    database: str, tmp_path: Path
) -> None:
    received: list[bytes] = []

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while message := await reader.read(4096):
                received.append(message)
                writer.write(b"N" if len(message) == 8 else b"R\0\0\0\x08\0\0\0\x03")  # no TLS; a clear-text password
        except OSError:
            pass
        finally:
            writer.close()

    passwords = tmp_path / "passwords"
    closed = free_port()
    passwords.write_text(f"127.0.0.1:{closed}:*:*:{SECRET}\n", encoding="utf-8")
    passwords.chmod(0o600)
    async with await asyncio.start_server(ask, "127.0.0.1", 0) as asking:
        port = asking.sockets[0].getsockname()[1]
        url = f"postgresql://u@127.0.0.1:{closed},127.0.0.1:{port}/d?passfile={passwords}&connect_timeout=1"
        await refusal(url, wait=0)
    assert len(received) >= 3
    assert SECRET.encode() not in b"".join(received)


# Parameters of the server


async def test_settings_of_the_server_are_those_of_the_url(database: str) -> None:
    url = adding(database, "application_name=reports&statement_timeout=12s&options=-c%20geqo%3Doff&gssencmode=prefer")
    async with connected(url) as pool:
        found = [await pool.fetchval(f"SHOW {name}") for name in ("application_name", "statement_timeout", "geqo")]
    assert found == ["reports", "12s", "off"]


async def test_an_unknown_server_setting_ends_the_start_with_its_name(database: str) -> None:
    assert await refusal(adding(database, "pgbouncer=true")) == 'unrecognized configuration parameter "pgbouncer"'


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"), "server")


@pytest.fixture
async def by_tls(database: str, certificate: Path) -> AsyncIterator[str]:
    """A URL of the database by TLS, to which parameters can be added."""
    async with tls_front(database, certificate) as port:
        user = urlsplit(database).netloc.rpartition("@")[0]
        yield f"postgresql://{user}@localhost:{port}/{name_of(database)}?connect_timeout=5"


@pytest.mark.parametrize(
    "parameters",
    [
        "",
        "&sslmode=require",
        "&sslmode=verify-ca&sslrootcert={certificate}",
        "&sslmode=verify-full&sslrootcert={certificate}",
        "&sslmode=require&channel_binding=require&sslrootcert={certificate}",
    ],
)
async def test_tls_follows_the_sslmode_of_the_url(by_tls: str, certificate: Path, parameters: str) -> None:
    async with connected(by_tls + parameters.format(certificate=certificate)) as pool, pool.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM generate_series(1, 10)") == 10
        assert connection._con._protocol.is_ssl


@pytest.mark.parametrize(
    "parameters", ["sslrootcert=system", "sslmode=require&channel_binding=require", "channel_binding=require"]
)
async def test_a_certificate_that_the_system_trusts_is_accepted(
    by_tls: str, certificate: Path, monkeypatch: pytest.MonkeyPatch, parameters: str
) -> None:
    """The URLs of Neon have `sslmode=require&channel_binding=require`."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # the default path of OpenSSL
    async with connected(f"{by_tls}&{parameters}") as pool:
        assert await pool.fetchval("SELECT 1") == 1


@pytest.mark.parametrize("parameters", ["sslrootcert=system", "sslmode=require&channel_binding=require"])
async def test_a_certificate_that_the_system_does_not_trust_ends_the_start_at_once(
    by_tls: str, parameters: str
) -> None:
    line = await refusal(f"{by_tls}&{parameters}")
    assert line.startswith("the certificate of the server is not accepted: self")
    assert "(sslmode=verify-full, sslrootcert=system); set sslrootcert to " in line


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_another_certificate_ends_the_start_at_once_and_names_the_file(
    by_tls: str, tmp_path: Path, mode: str
) -> None:
    other = make_certificate(tmp_path, "other")
    line = await refusal(f"{by_tls}&sslmode={mode}&sslrootcert={other}")
    assert line.startswith("the certificate of the server is not accepted: ")
    assert f"(sslmode={mode}, sslrootcert={other}); set sslrootcert to " in line


async def test_a_certificate_for_another_host_ends_the_start_at_once(by_tls: str, certificate: Path) -> None:
    url = f"{by_tls}&sslmode=verify-full&sslrootcert={certificate}".replace("localhost", "127.0.0.1")
    assert "IP address mismatch" in await refusal(url)


@pytest.mark.parametrize("mode", ["require", "verify-full"])
async def test_a_server_without_tls_ends_the_start_at_once(database: str, certificate: Path, mode: str) -> None:
    async with proxied(database) as proxy:
        line = await refusal(f"{proxy.url}?sslmode={mode}&sslrootcert={certificate}")
    assert line.startswith(f"the server has no TLS, and sslmode={mode} asks for it; set ssl=on")


@pytest.mark.parametrize("parameter", ["sslrootcert", "sslcrl", "sslcert", "sslkey"])
async def test_a_missing_file_ends_the_start_at_once_with_its_name(
    certificate: Path, tmp_path: Path, parameter: str
) -> None:
    files = {"sslrootcert": certificate, "sslcert": certificate, "sslkey": certificate.with_suffix(".key")}
    given = "&".join(f"{name}={path}" for name, path in {**files, parameter: tmp_path / "none"}.items())
    line = await refusal(f"postgresql://u:{SECRET}@127.0.0.1:{free_port()}/d?sslmode=verify-full&{given}")
    assert line == f"{parameter}: {tmp_path}/none: No such file or directory"


@pytest.mark.parametrize("parameter", ["sslrootcert", "sslcrl", "sslcert"])
async def test_an_invalid_certificate_file_ends_the_start_at_once_with_its_name(tmp_path: Path, parameter: str) -> None:
    (tmp_path / "text").write_text("no certificate")
    line = await refusal(f"postgresql://u:{SECRET}@127.0.0.1:{free_port()}/d?{parameter}={tmp_path}/text")
    assert line.startswith(f"{parameter}: {tmp_path}/text: ")


async def test_a_socket_needs_no_file_of_tls(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGSSLROOTCERT", str(tmp_path / "none"))
    environment = {"DB_HOST": folder_of(database), "DB_NAME": name_of(database)}
    async with connected(read_settings(environment).database()) as pool:
        assert await pool.fetchval("SELECT inet_client_addr()") is None


async def test_verification_without_a_file_names_the_default_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    line = await refusal(f"postgresql://u:{SECRET}@127.0.0.1:{free_port()}/d?sslmode=verify-full")
    assert line == f"sslrootcert: {tmp_path}/.postgresql/root.crt: No such file or directory"
