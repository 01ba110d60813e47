"""Real clients of the compressed files: downloaded, resumed while the export grows and after it, decoded and read.

A compressed file is a resource of its own, so every client resumes it as it does any other. A client that decodes while
it downloads resumes with the number of decoded bytes, and must get the rest of the CSV.
"""

import asyncio
import hashlib
import importlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from streamer.coding import COMPRESSED, Coding
from tests.acceptance.chromium import PROGRAM, chromium
from tests.acceptance.clients import (
    ARIA2C,
    CURL,
    CURL_GZIP,
    LIKE_HTTPIE,
    PATIENCE,
    WGET,
    WGET_GZIP,
    Client,
    Outcome,
    Resumes,
    grown,
)
from tests.acceptance.relay import StallingRelay, relaying
from tests.codings import Decoding, decoded, resource
from tests.held import LARGE, Held, HeldExport, gated_server, scratch_database
from tests.rawhttp import ask

WHOLE = LARGE.whole
ROWS = LARGE.rows
STALL = 50_000  # bytes that a client gets before it is held in the middle of a download
PROGRAM_TIMEOUT = 60.0  # seconds
CLIENTS = (CURL, WGET, ARIA2C, LIKE_HTTPIE)
DECODERS = {
    "zcat": (Coding.GZIP, ("zcat",)),
    "gzip": (Coding.GZIP, ("gzip", "-dc")),
    "zstd": (Coding.ZSTD, ("zstd", "-dcq")),
    "zstdcat": (Coding.ZSTD, ("zstdcat",)),
}

pytestmark = pytest.mark.asyncio(loop_scope="module")


def each(clients: Iterable[Client]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("client", [pytest.param(c, id=c.name, marks=runnable(c)) for c in clients])


def runnable(client: Client) -> pytest.MarkDecorator:
    return pytest.mark.skipif(client.missing, reason=f"{client.name}: the program is not installed")


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


every_coding = pytest.mark.parametrize("coding", COMPRESSED)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Held]:
    async with (
        scratch_database(postgres) as database,
        gated_server(database, tmp_path_factory.mktemp("spool"), [LARGE.name], compressions=8) as started,
    ):
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def held(server: Held) -> AsyncIterator[Held]:
    """The server. It has no work before and after the test."""
    yield server
    await server.settle()


async def sealed(export: HeldExport, coding: Coding) -> bytes:
    """The compressed file of a completed export."""
    answer = await ask(export.held.url, "GET", resource(export.id, coding))
    assert answer.status == 200
    return answer.body


def url_of(export: HeldExport, coding: Coding) -> str:
    return f"{export.held.url}{resource(export.id, coding)}"


def assert_identical(outcome: Outcome, path: Path, coding: Coding) -> None:
    assert outcome.exit_status == 0, outcome
    assert sha256(decoded(coding, path.read_bytes())) == sha256(WHOLE)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def cut(client: Client, export: HeldExport, path: Path, coding: Coding) -> None:
    """Leaves in `path` what the client has when it is killed in the middle of the compressed file."""
    relay = StallingRelay(export.held.url, STALL)
    async with relaying(relay) as relayed:
        task = asyncio.create_task(client.fetch(relayed + resource(export.id, coding), path))
        await grown(path, 1, task)
        task.cancel()
        await asyncio.wait({task})


# Downloaded and resumed


@every_coding
@each(CLIENTS)
async def test_sealed_file_is_downloaded_killed_and_resumed(
    client: Client, held: Held, tmp_path: Path, coding: Coding
) -> None:
    export, path = await held.completed(LARGE), tmp_path / f"download{coding.suffix}"
    whole = await sealed(export, coding)
    await cut(client, export, path, coding)
    assert_identical(await client.fetch(url_of(export, coding), path), path, coding)
    assert sha256(path.read_bytes()) == sha256(whole)


@every_coding
@each(CLIENTS)
async def test_file_of_a_growing_export_is_downloaded_killed_and_resumed(
    client: Client, held: Held, tmp_path: Path, coding: Coding
) -> None:
    export, path = await held.export(LARGE, at=1), tmp_path / f"download{coding.suffix}"
    await cut(client, export, path, coding)
    begun = path.read_bytes()
    task = asyncio.create_task(client.fetch(url_of(export, coding), path))
    if client.resumes is Resumes.SEALED:  # it does not go on with a file of unknown length, and says so
        assert (await task).exit_status != 0
        await held.open()
        await sealed(export, coding)  # now its length is known, a moment after that of the export
        task = asyncio.create_task(client.fetch(url_of(export, coding), path))
    else:
        await grown(path, len(begun) + 1, task)
        await held.open()
    assert_identical(await task, path, coding)
    assert sha256(path.read_bytes()) == sha256(await sealed(export, coding))


@every_coding
@each((CURL, WGET, LIKE_HTTPIE))
async def test_download_fails_with_the_export(client: Client, held: Held, tmp_path: Path, coding: Coding) -> None:
    export, path = await held.export(LARGE, at=1), tmp_path / f"download{coding.suffix}"
    task = asyncio.create_task(client.fetch(url_of(export, coding), path))
    await grown(path, 1, task)
    await export.fail()
    outcome = await task
    assert outcome.exit_status != 0, outcome
    assert WHOLE.startswith(bytes(decoding_of(path, coding).decoded))


def decoding_of(path: Path, coding: Coding) -> Decoding:
    decoding = Decoding(coding)
    decoding.add(path.read_bytes())
    return decoding


@each((CURL_GZIP, WGET_GZIP))
@pytest.mark.parametrize("state", ["live", "sealed"])
async def test_client_that_decodes_while_it_downloads_resumes_the_csv(
    client: Client, held: Held, tmp_path: Path, state: str
) -> None:
    export, path = await held.export(LARGE, at=1), tmp_path / "download"
    path.write_bytes(WHOLE[:100_001])
    if state == "sealed":
        await held.open()
        await export.becomes("completed")
        await sealed(export, Coding.GZIP)  # it is at hand, and is not chosen
    task = asyncio.create_task(client.fetch(export.url, path))
    if state == "live":
        await grown(path, 200_000, task)
        await held.open()
    outcome = await task
    assert outcome.exit_status == 0, outcome
    assert sha256(path.read_bytes()) == sha256(WHOLE)


@pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("state", ["live", "sealed"])
@every_coding
async def test_chromium_saves_the_file_as_it_is(held: Held, tmp_path: Path, coding: Coding, state: str) -> None:
    export = await held.export(LARGE, at=1)
    if state == "sealed":
        await held.open()
        await export.becomes("completed")
    async with chromium(tmp_path) as browser:
        download = asyncio.create_task(browser.download(url_of(export, coding)))
        await held.open()
        async with asyncio.timeout(PATIENCE):
            name, content = await download
    assert name.endswith(coding.suffix)
    assert sha256(content) == sha256(await sealed(export, coding))
    assert sha256(decoded(coding, content)) == sha256(WHOLE)


# Decoded and read


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in DECODERS])
async def test_program_decodes_the_file_of_a_live_and_of_a_completed_export(
    held: Held, tmp_path: Path, name: str
) -> None:
    coding, command = DECODERS[name]
    export = await held.export(LARGE, at=1)
    download = asyncio.create_task(ask(held.url, "GET", resource(export.id, coding)))
    await held.open()
    live = (await download).body
    await export.becomes("completed")
    for content in (live, await sealed(await held.completed(LARGE), coding)):
        path = tmp_path / f"file{coding.suffix}"
        path.write_bytes(content)
        exit_status, output = await asyncio.to_thread(run, [*command, str(path)])
        assert (exit_status, sha256(output)) == (0, sha256(WHOLE))


def run(command: Sequence[str]) -> tuple[int, bytes]:
    """Returns the exit status and the output."""
    done = subprocess.run(command, capture_output=True, timeout=PROGRAM_TIMEOUT, check=False)
    return done.returncode, done.stdout


def imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize("coding", [Coding.IDENTITY, *COMPRESSED])
async def test_requests_gets_the_whole(held: Held, coding: Coding) -> None:
    """As a file, and as a coding that it decodes by itself; zstd only where a library for it is installed."""
    requests = imported("requests")
    export = await held.completed(LARGE)
    file = await asyncio.to_thread(requests.get, url_of(export, coding), timeout=PROGRAM_TIMEOUT)
    assert sha256(decoded(coding, file.content)) == sha256(WHOLE)
    coded = await asyncio.to_thread(requests.get, export.url, timeout=PROGRAM_TIMEOUT)
    assert coded.headers["Content-Encoding"] in COMPRESSED
    assert sha256(coded.content) == sha256(WHOLE)


def by_pandas(url: str, coding: Coding) -> int:
    pandas = imported("pandas")
    if coding is Coding.ZSTD:
        imported("zstandard")
    return len(pandas.read_csv(url, compression=str(coding)))


def by_duckdb(url: str, coding: Coding) -> int:
    """Of a local file: its way to HTTP is an extension that it would have to download."""
    if coding is Coding.ZSTD:
        pytest.skip("zstd is a part of an extension of duckdb")
    query = f"SELECT count(*) FROM read_csv('{url}', compression = '{coding}')"
    ((count,),) = imported("duckdb").sql(query).fetchall()
    return int(count)


def by_polars(url: str, coding: Coding) -> int:
    return int(imported("polars").read_csv(url).height)


@every_coding
@pytest.mark.parametrize("read", [by_pandas, by_polars])
async def test_library_reads_the_file_from_its_address(
    held: Held, coding: Coding, read: Callable[[str, Coding], int]
) -> None:
    export = await held.completed(LARGE)
    assert await asyncio.to_thread(read, url_of(export, coding), coding) == ROWS


@every_coding
@pytest.mark.parametrize("read", [by_pandas, by_duckdb, by_polars])
async def test_library_reads_the_file_that_was_saved(
    held: Held, tmp_path: Path, coding: Coding, read: Callable[[str, Coding], int]
) -> None:
    path = tmp_path / f"export{coding.suffix}"
    path.write_bytes(await sealed(await held.completed(LARGE), coding))
    assert await asyncio.to_thread(read, str(path), coding) == ROWS
