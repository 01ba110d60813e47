"""`streamer serve` and `streamer demo` as real processes: start, start errors, and stop."""

import asyncio
import json
import os
import random
import re
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import asyncpg
import psutil  # type: ignore[import-untyped] # its types are a package of their own, which nothing else needs
import pytest

from streamer.coding import COMPRESSED, Coding
from streamer.jobs.recovery import SERVED, STOPPED
from tests import seeds
from tests.acceptance.process import LOG_LINE, STREAMER, Process, streamer
from tests.codings import decoded
from tests.conftest import ROWS, at_database, connected, files_and_locks, files_in, folder_for_postgres
from tests.exporting import RemoteExport, create, read_problem, sha256
from tests.gates import Gates, gated_csv
from tests.polling import PATIENCE, until
from tests.proxy import proxied
from tests.rawhttp import connection

FINAL_CHUNK = b"0\r\n\r\n"
LONG_TO_HASH = 64 * 1024**3  # bytes, of which nearly all are a hole
SOON = 10.0  # seconds for the end of a server that has nothing to wait for
MADE = 60.0  # seconds to create and start a PostgreSQL, or to stop it

WRONG = {
    "API_PORT": ["abc", "70000", "-1", "80.5"],
    "MAX_CONCURRENT_EXPORTS": ["0", "many"],
    "MAX_QUEUED_EXPORTS": ["-1"],
    "EXPORT_METHOD": ["fast"],
    "DATABASE_STARTUP_TIMEOUT": ["soon"],
    "ABANDONED_EXPORT_TIMEOUT": ["1y"],
    "DATASETS": ["users,,orders"],
    "LOG_FORMAT": ["xml"],
    "DATABASE_URL": ["mysql://127.0.0.1/test", "postgresql://127.0.0.1:port/test"],
}


@asynccontextmanager
async def serving_process(folder: Path, database: str, **environment: str) -> AsyncIterator[Process]:
    """Runs `streamer serve` on a free port, with its spool in the folder."""
    settings = {"DATABASE_URL": database, "API_PORT": "0", "DATABASE_STARTUP_TIMEOUT": "10s", **environment}
    async with streamer("serve", folder=folder, environment=settings) as process:
        yield process


async def complaint_of_serve(folder: Path, **environment: str) -> str:
    """Returns the one line with which `streamer serve` refuses to start."""
    async with streamer("serve", folder=folder, environment=environment) as process:
        assert await process.exit_code() == 1
    assert process.stdout == []
    return process.complaint()


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in WRONG.items() for text in texts])
async def test_wrong_setting_is_one_line_that_names_it(tmp_path: Path, name: str, text: str) -> None:
    environment = {"DATABASE_URL": "postgresql://127.0.0.1:1/test", "DATABASE_STARTUP_TIMEOUT": "0s", name: text}
    assert (await complaint_of_serve(tmp_path, **environment)).startswith(f"streamer: {name} must ")


UNUSED = {"DATABASE_URL": "postgresql://u:secret@127.0.0.1:1/test", "DATABASE_STARTUP_TIMEOUT": "0"}
MISTAKES = [
    ({"API_PORT": "99999"}, "API_PORT must be 0 to 65535, not '99999'"),
    ({"SPOOL_MAX_BYTES": "10 gigs"}, "SPOOL_MAX_BYTES must be a size such as 64kB, 4MB or 20GB, not '10 gigs'"),
    ({"EXPORT_METHOD": "fast"}, "EXPORT_METHOD must be auto, blocks, copy or fetch, not 'fast'"),
    ({"EXPORT_CURSOR": "fast"}, "EXPORT_CURSOR must be auto, blocks, copy or fetch, not 'fast'"),
    (
        {"MAX_FOLLOWERS": "1", "MAX_DOWNLOADS": "2"},
        "MAX_FOLLOWERS is the former name of MAX_DOWNLOADS, and both are set, to different values; remove ",
    ),
    ({"EXPORT_STORAGE_PATH": "/proc/x"}, "EXPORT_STORAGE_PATH: cannot write to /proc/x: "),
    ({}, "DATABASE_URL: 127.0.0.1:1 refused the connection; is PostgreSQL running there?"),
    (
        {"DATABASE_URL": "postgresql://u:secret@no-host.invalid/test"},
        "DATABASE_URL: no address is known for no-host.invalid:5432; check the name of the host: ",
    ),
    ({"DATABASE_URL": "db.example.org"}, "DATABASE_URL must be a URL such as postgresql://user:password@host:5432/"),
    (
        {"DATABASE_URL": "", "DB_HOST": "127.0.0.1", "DB_PORT": "1"},
        "DB_HOST: 127.0.0.1:1 refused the connection; is PostgreSQL running there?",
    ),
    (
        {"DATABASE_URL": "", "DB_HOST": "db", "DB_PASSWORD": "secret", "DB_PASSWORD_FILE": "file"},
        "DB_PASSWORD and DB_PASSWORD_FILE are both set; remove one of them",
    ),
    (
        {"DATABASE_URL": "", "DB_HOST": "db", "DB_PASSWORD_FILE": "/proc/none"},
        "DB_PASSWORD_FILE: /proc/none cannot be read: No such file or directory",
    ),
]


@pytest.mark.parametrize(("environment", "sentence"), MISTAKES)
async def test_a_mistake_is_one_line_that_says_what_to_do(
    tmp_path: Path, environment: dict[str, str], sentence: str
) -> None:
    complaint = await complaint_of_serve(tmp_path, **UNUSED | environment)
    assert complaint.startswith(f"streamer: {sentence}")
    assert "secret" not in complaint


async def test_a_host_of_another_machine_is_one_line_that_names_it(
    tmp_path: Path, source_url: str, database: str
) -> None:
    settings = {"DATABASE_URL": database, "SOURCE_DATABASE_URL": source_url, "API_HOST": "192.0.2.1"}
    complaint = await complaint_of_serve(tmp_path, **settings)
    assert complaint == "streamer: 192.0.2.1 is no address of this machine; choose another with --host or API_HOST"


async def test_missing_database_url_is_one_line_that_names_it(tmp_path: Path) -> None:
    complaint = await complaint_of_serve(tmp_path)
    assert complaint.startswith("streamer: DATABASE_URL: ")
    assert "DB_HOST" in complaint


async def test_unreachable_database_is_one_line_after_the_wait(tmp_path: Path, database: str) -> None:
    async with proxied(database, listening=False) as proxy:
        url = proxy.url.replace("postgres:", "postgres:secret", 1)
        complaint = await complaint_of_serve(tmp_path, DATABASE_URL=url, DATABASE_STARTUP_TIMEOUT="1s", API_PORT="0")
    assert complaint.endswith(" refused the connection; is PostgreSQL running there? (waited 1 s)")
    assert complaint.startswith("streamer: DATABASE_URL: 127.0.0.1:")
    assert "secret" not in complaint


async def test_unreachable_source_is_named_as_the_source(tmp_path: Path, database: str) -> None:
    async with proxied(database, listening=False) as proxy:
        complaint = await complaint_of_serve(
            tmp_path, DATABASE_URL=database, SOURCE_DATABASE_URL=proxy.url, DATABASE_STARTUP_TIMEOUT="0s", API_PORT="0"
        )
    assert complaint.startswith("streamer: SOURCE_DATABASE_URL: ")


async def test_database_that_does_not_exist_is_one_line_at_once(tmp_path: Path, database: str) -> None:
    clock = asyncio.get_running_loop().time
    started = clock()
    complaint = await complaint_of_serve(
        tmp_path, DATABASE_URL=at_database(database, "no_such_database"), DATABASE_STARTUP_TIMEOUT="60s"
    )
    assert complaint.startswith("streamer: DATABASE_URL: ")
    assert "no_such_database" in complaint
    assert clock() - started < 20


@pytest.mark.parametrize(
    ("name", "text"), [("DB_HOST", "db:5432"), ("DB_HOST", "db,"), ("DB_PORT", "1,2"), ("DB_PORT", "port")]
)
async def test_wrong_part_of_the_database_is_one_line_that_names_it(tmp_path: Path, name: str, text: str) -> None:
    environment = {"DB_HOST": "db", "DB_PASSWORD": "secret", "DATABASE_STARTUP_TIMEOUT": "60s", name: text}
    complaint = await complaint_of_serve(tmp_path, **environment)
    assert complaint.startswith(f"streamer: {name} must be ")
    assert ("DB_PORT" in complaint) == (":" in text or name == "DB_PORT")
    assert "secret" not in complaint


async def test_database_is_configured_by_its_parts_and_variables_of_libpq(tmp_path: Path, database: str) -> None:
    folder = parse_qs(urlsplit(database).query).get("host", [""])[0]
    if not folder:
        pytest.skip("this server is not reached by a socket")
    async with connected(database) as connection:
        await connection.execute("CREATE TABLE things (id int)")
    parts = {"DB_HOST": folder, "DB_NAME": urlsplit(database).path.removeprefix("/"), "PGGSSENCMODE": "prefer"}
    environment = {**parts, "API_PORT": "0", "DATASETS": "things"}
    async with streamer("serve", folder=tmp_path, environment=environment) as process:
        await process.url()
        process.signal(signal.SIGTERM)
        assert await process.exit_code() == 0
    assert sum("DB_HOST: without effect: gssencmode" in line for line in process.stderr) == 1


@pytest.mark.parametrize("path", ["file", "file/below"])
async def test_spool_path_that_is_no_folder_is_one_line_that_names_it(tmp_path: Path, database: str, path: str) -> None:
    (tmp_path / "file").write_text("in the way")
    complaint = await complaint_of_serve(tmp_path, DATABASE_URL=database, EXPORT_STORAGE_PATH=path)
    assert complaint.startswith("streamer: EXPORT_STORAGE_PATH: ")
    assert (tmp_path / "file").read_text() == "in the way"


async def test_port_in_use_is_one_line_that_names_it(tmp_path: Path, source_url: str, database: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        complaint = await complaint_of_serve(
            tmp_path, DATABASE_URL=database, SOURCE_DATABASE_URL=source_url, API_PORT=port
        )
    assert complaint == f"streamer: port {port} on 127.0.0.1 is in use; choose another with --port or API_PORT"


async def test_unknown_dataset_is_one_line_that_names_it(tmp_path: Path, database: str) -> None:
    complaint = await complaint_of_serve(tmp_path, DATABASE_URL=database, DATASETS="no_such_table", API_PORT="0")
    assert complaint.startswith("streamer: DATASETS: ")
    assert "no_such_table" in complaint


async def test_start_waits_for_a_database_that_comes_up_late(
    tmp_path: Path, source_url: str, database: str, session: aiohttp.ClientSession
) -> None:
    async with (
        proxied(database, listening=False) as proxy,
        serving_process(tmp_path, proxy.url, SOURCE_DATABASE_URL=source_url, DATABASE_STARTUP_TIMEOUT="60s") as process,
    ):
        await process.said("DATABASE_URL: waiting for the database")
        await proxy.listen()
        export = await create(session, await process.url(), columns="id,email")
        expected = sha256(seeds.csv_bytes(seeds.rows(ROWS), ["id", "email"]))
        assert sha256(await export.body()) == expected
        process.signal(signal.SIGTERM)
        assert await process.exit_code() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_the_wait_for_the_database(tmp_path: Path, database: str, number: signal.Signals) -> None:
    async with (
        proxied(database, listening=False) as proxy,
        serving_process(tmp_path, proxy.url, DATABASE_STARTUP_TIMEOUT="60s") as process,
    ):
        await process.said("DATABASE_URL: waiting for the database")
        process.signal(number)
        assert await process.exit_code(within=SOON) == 0
    assert not any("Traceback" in line for line in process.stderr)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_during_an_export_without_grace_stops_quickly(
    tmp_path: Path, database: str, gates: Gates, session: aiohttp.ClientSession, number: signal.Signals
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 90_000)
    async with serving_process(tmp_path, database, DATASETS="gated", SHUTDOWN_TIMEOUT="0s") as process:
        url = await process.url()
        export = await create(session, url, dataset="gated")
        async with session.get(export.download) as follower, connection(url, receive=4096) as still:
            await still.send("GET", export.path, {"Connection": "close"})
            assert (await still.begin())[0].status == 200
            await follower.content.readexactly(10_000)
            await gates.reached("gated", 90_000)
            process.signal(number)
            with pytest.raises(aiohttp.ClientPayloadError):
                await follower.read()
            assert not (await still.rest()).endswith(FINAL_CHUNK)
            assert await process.exit_code(within=SOON) == 0
    assert not any("Traceback" in line for line in process.stderr)
    assert files_and_locks(tmp_path / "spool") == set()
    await gates.nobody_works()
    row = await gates.connection.fetchrow("SELECT state, error FROM streamer.exports")
    assert row is not None
    assert (row["state"], row["error"]) == ("failed", STOPPED)


async def test_export_that_ends_within_the_grace_is_completed_and_its_follower_has_all_of_it(
    tmp_path: Path, database: str, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 90_000)
    async with serving_process(tmp_path, database, DATASETS="gated", SHUTDOWN_TIMEOUT="30s") as process:
        url = await process.url()
        export = await create(session, url, dataset="gated")
        async with session.get(export.download) as follower, connection(url, receive=4096) as slow:
            await slow.send("GET", export.path)
            head, body = await slow.begin()
            assert head.status == 200
            first = await follower.content.readexactly(10_000)
            await gates.reached("gated", 90_000)
            process.signal(signal.SIGTERM)
            await process.said("stopping")
            async with session.post(f"{url}/exports/csv", params={"dataset": "gated"}) as refused:
                assert "stopping" in (await read_problem(refused, 503))["detail"]
                assert int(refused.headers["Retry-After"]) > 0
            await gates.open("gated", 90_000)
            assert sha256(first + await follower.read()) == sha256(gated_csv())
            assert sha256(await body.whole()) == sha256(gated_csv())
        assert await process.exit_code(within=SOON) == 0
    assert not any("Traceback" in line for line in process.stderr)
    assert files_and_locks(tmp_path / "spool") == {export.file_name}
    assert sha256((tmp_path / "spool" / export.file_name).read_bytes()) == sha256(gated_csv())
    row = await gates.connection.fetchrow("SELECT state, encode(sha256, 'hex') AS sha256 FROM streamer.exports")
    assert row is not None
    assert (row["state"], row["sha256"]) == ("completed", sha256(gated_csv()))


async def test_export_beyond_the_grace_breaks_visibly_and_one_without_a_reader_is_released(
    tmp_path: Path, database: str, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 90_000)
    clock = asyncio.get_running_loop().time
    async with serving_process(tmp_path, database, DATASETS="gated", SHUTDOWN_TIMEOUT="1s") as process:
        url = await process.url()
        served, unserved = [await create(session, url, dataset="gated") for _ in range(2)]
        async with session.get(served.download) as follower, connection(url) as by_hand:
            await by_hand.send("GET", served.path)
            assert (await by_hand.begin())[0].status == 200
            await follower.content.readexactly(10_000)
            await gates.reached("gated", 90_000)
            await unserved.until("processing")
            begun = clock()
            process.signal(signal.SIGTERM)
            with pytest.raises(aiohttp.ClientPayloadError):
                await follower.read()
            assert clock() - begun > 0.9
            assert not (await by_hand.rest()).endswith(FINAL_CHUNK)
            assert await process.exit_code(within=SOON) == 0
            assert clock() - begun < 1 + SOON
    assert not any("Traceback" in line for line in process.stderr)
    assert files_and_locks(tmp_path / "spool") == set()
    await gates.nobody_works()
    states = {str(row["id"]): row["state"] for row in await gates.connection.fetch("SELECT * FROM streamer.exports")}
    assert states == {served.id: "failed", unserved.id: "pending"}
    await gates.open("gated", 90_000)
    async with serving_process(tmp_path, database, DATASETS="gated") as process:
        again = RemoteExport(session, await process.url(), unserved.id)
        assert (await again.until("completed"))["sha256"] == sha256(gated_csv())
        assert sha256(await again.body()) == sha256(gated_csv())


async def test_server_whose_database_does_not_answer_stops(
    tmp_path: Path, database: str, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 90_000)
    async with (
        proxied(database) as proxy,
        serving_process(
            tmp_path, proxy.url, SOURCE_DATABASE_URL=database, DATASETS="gated", SHUTDOWN_TIMEOUT="0s"
        ) as process,
    ):
        export = await create(session, await process.url(), dataset="gated")
        async with session.get(export.download) as follower:
            await follower.content.readexactly(10_000)
            await gates.reached("gated", 90_000)
            proxy.hold_answer_to("SET state = 'failed'")
            process.signal(signal.SIGTERM)
            await asyncio.wait_for(proxy.holding.wait(), PATIENCE)
            with pytest.raises(aiohttp.ClientPayloadError):
                await follower.read()
            assert await process.exit_code(within=SOON) == 0
        proxy.release()
    assert (await gates.connection.fetchval("SELECT state FROM streamer.exports")) == "failed"
    assert files_and_locks(tmp_path / "spool") == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal_ends_the_process_at_once(
    tmp_path: Path, database: str, gates: Gates, session: aiohttp.ClientSession, number: signal.Signals
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 90_000)
    async with serving_process(tmp_path, database, DATASETS="gated", SHUTDOWN_TIMEOUT="60s") as process:
        url = await process.url()
        export = await create(session, url, dataset="gated")
        async with session.get(export.download) as follower:
            await follower.content.readexactly(10_000)
            await gates.reached("gated", 90_000)
            process.signal(number)
            await process.said("stopping")
            process.signal(number)
            assert await process.exit_code() == (130 if number is signal.SIGINT else -number)
            assert process.stdout == []
            with pytest.raises(aiohttp.ClientPayloadError):
                await follower.read()


async def test_killed_server_breaks_its_downloads_and_the_next_one_recovers_its_exports_at_once(
    tmp_path: Path, database: str, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 90_000)
    async with serving_process(tmp_path, database, DATASETS="gated") as process:
        url = await process.url()
        served, unserved = [await create(session, url, dataset="gated") for _ in range(2)]
        async with session.get(served.download) as follower:
            await follower.content.readexactly(10_000)
            await gates.reached("gated", 90_000)
            await unserved.until("processing")
            process.signal(signal.SIGKILL)
            with pytest.raises(aiohttp.ClientPayloadError):
                await follower.read()
            assert await process.exit_code() == -signal.SIGKILL
    assert served.file_name in files_in(tmp_path / "spool")
    await gates.open("gated", 90_000)
    async with serving_process(tmp_path, database, DATASETS="gated") as process:  # no lease has run out yet
        url = await process.url()
        status = await RemoteExport(session, url, served.id).status()
        assert (status["status"], status["error"]) == ("failed", SERVED)
        again = RemoteExport(session, url, unserved.id)
        assert (await again.until("completed"))["attempts"] == 2
        assert sha256(await again.body()) == sha256(gated_csv())
        assert files_in(tmp_path / "spool") == {unserved.file_name}
        assert sha256(await (await create(session, url, dataset="gated")).body()) == sha256(gated_csv())


@pytest.mark.parametrize("coding", COMPRESSED)
async def test_killed_server_makes_a_compressed_file_again_for_the_clients_that_have_a_part_of_it(
    tmp_path: Path, database: str, gates: Gates, session: aiohttp.ClientSession, coding: Coding
) -> None:
    await gates.view("gated")
    async with serving_process(tmp_path, database, DATASETS="gated") as process:
        url = await process.url()
        export = await create(session, url, dataset="gated")
        await export.until("completed")
        async with session.get(f"{export.download}{coding.suffix}") as follower:
            tag, begun = follower.headers["ETag"], await follower.content.readany()
            process.signal(signal.SIGKILL)
            assert await process.exit_code() == -signal.SIGKILL
    async with serving_process(tmp_path, database, DATASETS="gated") as process:
        again = RemoteExport(session, await process.url(), export.id)
        resumed = {"Range": f"bytes={len(begun)}-"}
        async with session.get(f"{again.download}{coding.suffix}", headers=resumed) as response:
            assert (response.status, response.headers["ETag"]) == (206, tag)
            assert sha256(decoded(coding, begun + await response.read())) == sha256(gated_csv())


async def test_full_disk_fails_the_export_and_the_server_continues(
    tmp_path: Path, database: str, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 20_000)
    async with serving_process(tmp_path, database, DATASETS="gated") as process:
        url = await process.url()
        export = await create(session, url, dataset="gated")
        async with session.get(export.download) as follower:
            await follower.content.readexactly(10_000)
            await gates.reached("gated", 20_000)
            process.limit_files(3_000_000)
            await gates.open("gated", 20_000)
            with pytest.raises(aiohttp.ClientPayloadError):
                await follower.read()
        status = await export.until("failed")
        assert status["error"] == "the export's file could not be written: File too large"
        process.limit_files(None)
        assert sha256(await (await create(session, url, dataset="gated")).body()) == sha256(gated_csv())
        process.signal(signal.SIGTERM)
        assert await process.exit_code() == 0
    assert export.file_name not in files_in(tmp_path / "spool")


@pytest.mark.parametrize("cancels", [8, pytest.param(60, marks=pytest.mark.sweep)])
@pytest.mark.parametrize(
    ("cursor", "connections"), [("copy", 1), ("copy", 2), ("blocks", 1), ("blocks", 2), ("fetch", 1)]
)
async def test_exports_cancelled_at_any_moment_leave_no_error_in_the_log(
    tmp_path: Path,
    source_url: str,
    database: str,
    session: aiohttp.ClientSession,
    *,
    cursor: str,
    connections: int,
    cancels: int,
) -> None:
    settings = {
        "SOURCE_DATABASE_URL": source_url,
        "EXPORT_METHOD": cursor,
        "EXPORT_CONNECTIONS": str(connections),
        "SHUTDOWN_TIMEOUT": "0s",
    }
    moments = random.Random(f"{cursor} {connections}")
    async with serving_process(tmp_path, database, **settings) as process:
        url = await process.url()
        for _ in range(cancels):
            export = await create(session, url)
            await asyncio.sleep(moments.uniform(0, 0.25))  # an export of all rows takes as long, or longer
            assert await export.delete() == 204
        for _ in range(2):
            await create(session, url)
        await asyncio.sleep(moments.uniform(0, 0.25))
        process.signal(signal.SIGTERM)
        assert await process.exit_code(within=SOON) == 0
    assert [line for line in process.stderr if not LOG_LINE.match(line)] == []  # an ERROR is none, nor a traceback


async def test_log_is_json_if_configured(tmp_path: Path, source_url: str, database: str) -> None:
    async with serving_process(tmp_path, database, SOURCE_DATABASE_URL=source_url, LOG_FORMAT="json") as process:
        await process.url()
        process.signal(signal.SIGTERM)
        assert await process.exit_code() == 0
    assert {"message", "levelname"} <= set.intersection(*(set(json.loads(line)) for line in process.stderr))


def postgres_processes(data: Path) -> list[psutil.Process]:
    """The processes that run on this data directory."""
    found = []
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "postgres":
            try:
                if Path(process.cwd()) == data:
                    found.append(process)
            except psutil.Error:
                continue
    return found


async def run_in_bash(script: str, folder: Path) -> str:
    """Returns the output of the script; it must not fail."""
    bash = await asyncio.create_subprocess_exec(
        "bash", "-e", "-c", script, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    printed, complaints = await bash.communicate()
    assert bash.returncode == 0, complaints.decode()
    return printed.decode()


@pytest.mark.skipif(not (shutil.which("bash") and shutil.which("curl")), reason="needs bash and curl")
async def test_demo_prints_commands_that_work_and_ctrl_c_stops_all_of_it() -> None:
    expected = sorted(seeds.csv_bytes((row for row in seeds.rows(2000) if row.country_code == "US"), header=False))
    with folder_for_postgres() as folder:
        data = folder / "demo" / "postgres"
        for start in ("first", "second"):
            async with demo_process(folder) as process:
                await process.said("Ctrl-C stops", within=MADE)
                assert max(map(len, process.stdout)) <= 80
                with_streamer, with_curl = _commands(process.stdout)
                await run_in_bash(with_streamer, folder)
                verified = (folder / "users_US.csv").read_bytes()
                status: dict[str, Any] = json.loads(await run_in_bash(with_curl, folder))
                body = (folder / "users_US.csv").read_bytes()
                assert sha256(sorted(verified.splitlines())) == sha256(sorted(body.splitlines()))
                header, *records = body.splitlines(keepends=True)
                assert header == b"id,name,email,signup_date,country_code,subscription_tier,lifetime_value\n"
                assert sha256(sorted(records)) == sha256(expected)
                assert (status["status"], status["sha256"]) == ("completed", sha256(body))
                assert postgres_processes(data)
                process.signal(signal.SIGINT, group=True)
                assert await process.exit_code(within=MADE) == 0
            assert postgres_processes(data) == []
            assert any("Seeding" in line for line in process.stderr) == (start == "first")
            (folder / "users_US.csv").unlink()


def _commands(printed: list[str]) -> list[str]:
    """The blocks of indented lines, as they are pasted into a shell."""
    return [block for block in re.findall(r"(?:^  .*\n)+", "\n".join(printed), re.MULTILINE) if block.strip()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signal_while_the_demo_fills_its_table_stops_postgres_too(number: signal.Signals) -> None:
    with folder_for_postgres() as folder:
        data = folder / "demo" / "postgres"

        async def filling() -> bool:
            try:
                async with connected(f"postgresql://postgres:@/postgres?host={data}") as connection:
                    return bool(await connection.fetchval("SELECT max(id) FROM users"))
            except (OSError, asyncpg.PostgresError):
                return False

        async with demo_process(folder, rows=10_000_000) as process:
            await until(filling, "the first rows are in the table", within=MADE)
            process.signal(number)
            assert await process.exit_code(within=MADE) == 128 + number
            assert postgres_processes(data) == []
        assert not any("Aborted" in line or "Traceback" in line for line in process.stderr)
        assert re.fullmatch(r"stopped at [0-9,]+ of 10,000,000 rows; the next start continues", process.stderr[-1])


MOMENTS = [
    "lock",
    "postgres/PG_VERSION",
    "postgres/postmaster.pid",
]  # files of the demo's folder, in the order of their creation


@pytest.mark.parametrize("presses", [1, 2])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_ctrl_c_while_postgres_starts_ends_the_demo_without_a_message(moment: str, presses: int) -> None:
    with folder_for_postgres() as folder:
        begun = folder / "demo" / moment

        async def reached() -> bool:
            return begun.exists()

        async with demo_process(folder, rows=10_000_000) as process:
            await until(reached, f"{begun} is there", within=MADE)
            for _ in range(presses):
                process.signal(signal.SIGINT, group=True)
                await asyncio.sleep(0.05)
            assert await process.exit_code(within=MADE) == 130
            assert postgres_processes(folder / "demo" / "postgres") == []
        assert [line for line in process.stdout + process.stderr if "Seeding" not in line] == []


@asynccontextmanager
async def demo_process(folder: Path, *, rows: int = 2000) -> AsyncIterator[Process]:
    arguments = ("demo", "--rows", str(rows), "--port", "0", "--directory", "demo")
    try:
        async with streamer(*arguments, folder=folder) as process:
            yield process
    finally:
        left = postgres_processes(folder / "demo" / "postgres")  # none, unless a test has failed
        for process_of_postgres in left:
            process_of_postgres.send_signal(signal.SIGQUIT)
        await asyncio.to_thread(psutil.wait_procs, left, timeout=5)


async def test_demo_with_fewer_rows_than_the_table_serves_all_of_them_and_says_so() -> None:
    with folder_for_postgres() as folder:
        async with demo_process(folder) as process:
            await process.said("Ctrl-C stops", within=MADE)
            process.signal(signal.SIGINT)
            assert await process.exit_code(within=MADE) == 0
        assert {path.name for path in folder.iterdir()} == {"demo"}  # its spools are in there, too
        assert (folder / "demo" / "spool").is_dir()
        async with demo_process(folder, rows=5) as process:
            await process.said("2,000 users are ready at http", within=MADE)
            process.signal(signal.SIGINT)
            assert await process.exit_code(within=MADE) == 0
        assert "the table has 2,000 rows already, more than --rows 5: all of them are served" in process.stderr


async def complaint_of_demo(folder: Path, *arguments: str, **environment: str) -> str:
    """Returns the one line with which `streamer demo` refuses to start."""
    async with streamer("demo", *arguments, folder=folder, environment=environment) as process:
        assert await process.exit_code(within=MADE) == 1
    assert process.stdout == []
    return process.complaint()


async def test_demo_in_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    complaint = await complaint_of_demo(tmp_path, "--directory", "/proc/x")
    assert complaint.startswith("streamer: cannot write to /proc/x: ")
    assert complaint.endswith("choose another folder with --directory")


async def test_demo_below_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    complaint = await complaint_of_demo(tmp_path, "--directory", "file/below")
    assert complaint.startswith("streamer: cannot write to file/below: Not a directory; a part of the path is a file: ")


async def test_demo_on_an_unknown_list_of_hosts_is_one_line(tmp_path: Path) -> None:
    complaint = await complaint_of_demo(tmp_path, "--host", ",")
    assert complaint.startswith("streamer: --host must be host names or addresses separated by commas")
    assert not (tmp_path / ".streamer").exists()


async def test_demo_names_the_option_of_a_port_in_use_before_it_makes_anything(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with streamer("demo", folder=tmp_path, environment={"API_PORT": port}) as process:
            assert await process.exit_code() == 1
    assert process.stderr == [f"streamer: port {port} on 127.0.0.1 is in use; choose another with --port or API_PORT"]
    assert files_in(tmp_path) == set()


async def test_demo_on_an_unknown_host_is_one_line(tmp_path: Path) -> None:
    complaint = await complaint_of_demo(tmp_path, "--host", "no-host.invalid")
    assert complaint.startswith(
        "streamer: no address is known for the host no-host.invalid; choose another with --host"
    )


@pytest.mark.parametrize("option", ["--port", "--host"])
async def test_an_option_of_serve_wins_over_the_environment(
    tmp_path: Path, source_url: str, database: str, option: str
) -> None:
    settings = {"DATABASE_URL": database, "SOURCE_DATABASE_URL": source_url, "API_PORT": "0", "API_HOST": "127.0.0.1"}
    wrong = {"--port": {"API_PORT": "1"}, "--host": {"API_HOST": "no-host.invalid"}}[option]
    value = {"--port": "0", "--host": "127.0.0.1"}[option]
    async with streamer("serve", option, value, folder=tmp_path, environment=settings | wrong) as process:
        assert (await process.url()).startswith("http://127.0.0.1:")
        process.signal(signal.SIGTERM)
        assert await process.exit_code() == 0


async def test_a_former_name_of_a_setting_is_one_line_in_the_log(
    tmp_path: Path, source_url: str, database: str
) -> None:
    async with serving_process(tmp_path, database, SOURCE_DATABASE_URL=source_url, MAX_FOLLOWERS="5") as process:
        await process.url()
        process.signal(signal.SIGTERM)
        assert await process.exit_code() == 0
    remarks = [line for line in process.stderr if "MAX_FOLLOWERS" in line]
    assert len(remarks) == 1
    assert remarks[0].endswith("MAX_FOLLOWERS is called MAX_DOWNLOADS now; the old name still works")


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
async def test_closed_standard_streams_affect_only_the_log(
    tmp_path: Path, source_url: str, database: str, closed: str
) -> None:
    """No opened file gets the descriptor number of a stream: lines of the log would be written into it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    settings = {"DATABASE_URL": database, "SOURCE_DATABASE_URL": source_url, "API_PORT": str(port)}
    command = ("/bin/sh", "-c", f'exec "$0" serve {closed}', STREAMER)
    async with (
        streamer(folder=tmp_path, environment=settings, command=command) as process,
        aiohttp.ClientSession() as session,
    ):
        url = f"http://127.0.0.1:{port}"

        async def serves() -> bool:
            with suppress(aiohttp.ClientConnectionError):
                async with session.get(f"{url}/health") as response:
                    return response.status == 200
            return False

        await until(serves, "a server without standard streams answers")
        export = await create(session, url)
        assert sha256(await export.body()) == (await export.until("completed"))["sha256"]
        streams = await asyncio.to_thread(_standard_streams, process.pid)
        assert all(name == "/dev/null" or name.startswith("pipe:") for name in streams), streams
        process.signal(signal.SIGTERM)
        assert await process.exit_code() == 0


def _standard_streams(pid: int) -> list[str]:
    return [str(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in range(3)]


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-"])
async def test_start_error_without_standard_streams_has_its_exit_status(tmp_path: Path, closed: str) -> None:
    command = ("/bin/sh", "-c", f'exec "$0" serve {closed}', STREAMER)
    async with streamer(folder=tmp_path, command=command) as process:
        assert await process.exit_code() == 1
    assert process.stdout == []
    assert ("2>&-" in closed) == (process.stderr == [])


async def test_signal_does_not_wait_for_a_file_being_hashed(tmp_path: Path, source_url: str, database: str) -> None:
    """A file of an earlier process is hashed before it is served. This one would take half a minute."""
    async with serving_process(tmp_path, database, SOURCE_DATABASE_URL=source_url) as process:
        async with aiohttp.ClientSession() as session:
            export = await create(session, await process.url())
            await export.until("completed")
        process.signal(signal.SIGTERM)
        assert await process.exit_code() == 0
    os.truncate(tmp_path / "spool" / export.file_name, LONG_TO_HASH)
    async with connected(database) as connection:
        await connection.execute("UPDATE streamer.exports SET bytes = $1", LONG_TO_HASH)
    clock = asyncio.get_running_loop().time
    async with (
        serving_process(tmp_path, database, SOURCE_DATABASE_URL=source_url, SHUTDOWN_TIMEOUT="0s") as process,
        aiohttp.ClientSession() as session,
    ):
        again = RemoteExport(session, await process.url(), export.id)
        asking = asyncio.create_task(again.body())
        await _reads_a_file(process, export.file_name)
        began = clock()
        process.signal(signal.SIGTERM)
        assert await process.exit_code() == 0
        assert clock() - began < SOON
        with pytest.raises(aiohttp.ClientError):
            await asking


async def _reads_a_file(process: Process, name: str) -> None:
    """Returns when the process has the file open more than once: to be sent, and to be hashed."""

    async def opened_twice() -> bool:
        return sum(Path(file.path).name == name for file in psutil.Process(process.pid).open_files()) > 1

    await until(opened_twice, "the file is being hashed")
