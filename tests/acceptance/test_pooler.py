"""PgBouncer between the server and its databases: the same bytes as without it, over several connections.

The pooler is the real one, with a pool mode and otherwise its defaults, in front of the server of the tests.
"""

import asyncio
import os
import pwd
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import aiohttp
import asyncpg
import pytest

from tests import seeds
from tests.acceptance.process import streamer
from tests.conftest import ROWS, connected, folder_for_postgres
from tests.exporting import create, sha256
from tests.polling import until

PORT = 6432  # in the name of the socket
COPYING = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'active' AND query LIKE 'COPY (SELECT%'
"""

pytestmark = pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="there is no pgbouncer on the PATH")


@asynccontextmanager
async def pooled(url: str, mode: str) -> AsyncIterator[Path]:
    """The folder of the socket of a pooler in this mode, in front of the server of any of its URLs."""
    with folder_for_postgres() as folder:
        configuration = folder / "pgbouncer.ini"
        configuration.write_text(f"""
            [databases]
            * = {as_pgbouncer_writes(url)}
            [pgbouncer]
            auth_type = any
            unix_socket_dir = {folder}
            listen_port = {PORT}
            pool_mode = {mode}
        """)
        user = user_of_pooler(url)
        os.chown(folder, user, -1)
        process = await asyncio.create_subprocess_exec(
            "pgbouncer", "-q", configuration, user=user, cwd="/", stderr=asyncio.subprocess.DEVNULL
        )
        try:
            await until(lambda: answers(through(folder, url)), "the pooler answers")
            yield folder
        finally:
            process.kill()
            await process.wait()


def as_pgbouncer_writes(url: str) -> str:
    """The server of a URL, with its role."""
    server = urlsplit(url)
    folder = parse_qs(server.query).get("host")
    given = {
        "host": folder[0] if folder else server.hostname,
        "port": server.port or 5432,
        "user": unquote(server.username or "postgres"),
        "password": unquote(server.password or ""),
    }
    return " ".join("{}='{}'".format(name, str(value).replace("'", "''")) for name, value in given.items() if value)


def user_of_pooler(url: str) -> int:
    """It refuses to run as root, and must reach the server's socket, which may be in a folder that is closed."""
    if os.geteuid() != 0:
        return os.geteuid()
    folder = parse_qs(urlsplit(url).query).get("host")
    return Path(folder[0]).stat().st_uid if folder else pwd.getpwnam("nobody").pw_uid


def through(folder: Path, url: str) -> str:
    """The URL of the same database, by the pooler."""
    return f"postgresql://postgres@{urlsplit(url).path}?host={folder}&port={PORT}"


async def answers(url: str) -> bool:
    try:
        async with connected(url) as connection:
            return bool(await connection.fetchval("SELECT true"))
    except (OSError, asyncpg.PostgresError):
        return False


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_an_export_through_a_pooler_is_whole_and_uses_several_connections(
    tmp_path: Path, source_url: str, database: str, session: aiohttp.ClientSession, mode: str
) -> None:
    expected = sha256(seeds.csv_bytes(seeds.rows(ROWS)))
    async with connected(source_url) as watch, pooled(source_url, mode) as pooler:
        settings = {
            "DATABASE_URL": through(pooler, database),
            "SOURCE_DATABASE_URL": through(pooler, source_url),
            "EXPORT_CONNECTIONS": "3",
            "API_PORT": "0",
        }
        async with streamer("serve", folder=tmp_path, environment=settings) as process:
            url = await process.url()
            at_once = 0

            async def several() -> bool:
                """One export, its bytes as they must be, and whether more than one session was seen copying."""
                nonlocal at_once
                export = await create(session, url)
                while (await export.status())["status"] in {"pending", "processing"}:
                    at_once = max(at_once, len(await watch.fetch(COPYING)))
                assert (await export.until("completed"))["sha256"] == sha256(await export.body()) == expected
                return at_once > 1

            await until(several, "two sessions copy at the same time")
            if mode == "transaction":
                await process.said("announcements do not come back")
            else:
                assert not [line for line in process.stderr if "announcements do not come back" in line]
