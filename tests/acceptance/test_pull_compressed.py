"""`streamer pull` and `streamer export` with --gzip, --zstd and --compressed, as real processes with the real server.

Whatever ends a run, the next one resumes the compressed bytes of the part, and the file is the export.
"""

import asyncio
import gzip
import hashlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from streamer.client.decoding import decoder_of
from streamer.coding import Coding
from tests.acceptance.clients import grown
from tests.acceptance.process import STREAMER, Process, streamer
from tests.acceptance.relay import StallingRelay, relaying
from tests.acceptance.test_pull import LATE, LIMITED, began, by_shell, content_of, environment, names, run, sentence
from tests.conftest import connected
from tests.held import LARGE, Held, HeldExport
from tests.integration.pretender import pretending
from tests.polling import until
from tests.ports import free_port
from tests.rawhttp import ask

WHOLE = LARGE.whole
STALL = 120_000  # bytes that a pull gets before it is held: less than half of each compressed file


def as_it_is(content: bytes) -> bytes:
    return content


def without_zstd(content: bytes) -> bytes:
    return b"".join(decoder_of(Coding.ZSTD).decode(content))


@dataclass(frozen=True)
class Mode:
    """The options of a command, the name of its file, and what makes the CSV of the file."""

    options: tuple[str, ...]
    name: str
    decoded: Callable[[bytes], bytes]
    coding: Coding = Coding.GZIP

    @property
    def part(self) -> str:
        return f"{self.name}.part"

    def csv(self, folder: Path) -> bytes | None:
        content = content_of(folder / self.name)
        return None if content is None else self.decoded(content)


GZIP = Mode(("--gzip",), "x.csv.gz", gzip.decompress)
ZSTD = Mode(("--zstd",), "x.csv.zst", without_zstd, Coding.ZSTD)
COMPRESSED = Mode(("--compressed",), "x.csv", as_it_is)
BOTH = Mode(("--compressed", "--zstd"), "x.csv", as_it_is, Coding.ZSTD)
MODES = [pytest.param(mode, id=" ".join(mode.options)) for mode in (GZIP, ZSTD, COMPRESSED, BOTH)]
every_mode = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "local"
    folder.mkdir()
    return folder


async def pull(folder: Path, url: str, mode: Mode, *options: str, exit_status: int = 0) -> Process:
    return await run(folder, "pull", url, *mode.options, "-o", mode.name, *options, exit_status=exit_status)


@asynccontextmanager
async def stalled(
    export: HeldExport, folder: Path, mode: Mode, *options: str
) -> AsyncIterator[tuple[Process, StallingRelay]]:
    """A pull that has received a part of the compressed file, and waits for more."""
    relay = StallingRelay(export.held.url, STALL)
    async with relaying(relay) as relayed:
        command = "pull", relayed + export.download, *mode.options, "-o", mode.name, *options
        async with streamer(*command, folder=folder) as process:
            await grown(folder / mode.part, STALL // 2)
            yield process, relay


@asynccontextmanager
async def pulling_from_a_killed_server(
    database: str, session: aiohttp.ClientSession, folder: Path, mode: Mode, *, finished: bool = True
) -> AsyncIterator[tuple[Process, AbstractAsyncContextManager[Process]]]:
    """A pull that has lost its server in the middle of a compressed file, and what starts the server again.

    If the compressed file was not `finished` by then, the server has been killed while it was made.
    """
    rows = 60_000 if finished else 2_000_000
    view = f"CREATE VIEW large AS SELECT id, md5(id::text) AS text FROM generate_series(1, {rows}) AS id"
    async with connected(database) as hand:
        await hand.execute(view)
    settings = {"DATABASE_URL": database, "DATASETS": "large", "API_PORT": str(free_port())}
    url = f"http://127.0.0.1:{settings['API_PORT']}"
    async with streamer("serve", folder=folder.parent, environment=settings) as server:
        await server.url()
        await run(folder, "export", "--dataset", "large", "-o", "first.csv", place={"STREAMER_URL": url})
        (listed,) = await began(session, url, 1)
        relay = StallingRelay(url, STALL)
        async with relaying(relay) as relayed:
            command = "pull", f"{relayed}/exports/{listed['exportId']}", *mode.options, "-o", mode.name
            async with streamer(*command, "--timeout", "5", folder=folder) as pulls:
                await grown(folder / mode.part, STALL // 2)
                if finished:
                    await until(lambda: is_made(session, url, mode.coding), "the compressed file is complete")
                server.signal(signal.SIGKILL)
                await server.exit_code()
                relay.release()
                yield pulls, streamer("serve", folder=folder.parent, environment=settings)


async def is_made(session: aiohttp.ClientSession, url: str, coding: Coding) -> bool:
    (export,) = await began(session, url, 1)
    return bool(export["representations"][coding]["state"] == "completed")


def check_complete(folder: Path, mode: Mode) -> None:
    assert mode.csv(folder) == WHOLE
    assert names(folder) == {mode.name}


@every_mode
async def test_a_completed_export_is_saved_verified_and_accepted_when_it_is_there(
    held: Held, folder: Path, mode: Mode
) -> None:
    export = await held.completed(LARGE)
    told = json.loads((await pull(folder, export.url, mode, "--json")).stdout[0])
    check_complete(folder, mode)
    content = content_of(folder / mode.name) or b""
    assert (told["bytes"], told["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert told["rows"] == LARGE.rows
    again = json.loads((await pull(folder, export.url, mode, "--json")).stdout[0])
    assert again["alreadyThere"] == len(content)


@every_mode
async def test_a_growing_export_is_followed_and_resumed_after_a_kill(held: Held, folder: Path, mode: Mode) -> None:
    export = await held.export(LARGE, at=1)
    command = "pull", export.url, *mode.options, "-o", mode.name
    async with streamer(*command, folder=folder) as process:
        await grown(folder / mode.part)
        process.signal(signal.SIGKILL)
        await process.exit_code()
    async with streamer(*command, "--json", folder=folder) as process:
        await held.open()
        assert await process.exit_code() == 0, process.stderr
    assert json.loads(process.stdout[0])["alreadyThere"] > 0
    check_complete(folder, mode)


@every_mode
@pytest.mark.parametrize("connections", ["1", "3"])
async def test_a_killed_pull_of_a_completed_export_is_resumed(
    held: Held, folder: Path, mode: Mode, connections: str
) -> None:
    export = await held.completed(LARGE)
    await file_of(export, mode.coding)
    async with stalled(export, folder, mode, "--connections", connections) as (process, _):
        process.signal(signal.SIGKILL)
        await process.exit_code()
    await pull(folder, export.url, mode, "--connections", connections)
    check_complete(folder, mode)


@every_mode
async def test_ctrl_c_leaves_a_part_that_the_next_run_resumes(held: Held, folder: Path, mode: Mode) -> None:
    export = await held.completed(LARGE)
    async with stalled(export, folder, mode) as (process, _):
        process.signal(signal.SIGINT)
        assert await process.exit_code() == 130
    assert sentence(process) == "streamer: interrupted"
    assert f"{mode.part} has the bytes received so far" in process.stderr[1]
    resumed = await pull(folder, export.url, mode, "--json")
    assert json.loads(resumed.stdout[0])["alreadyThere"] >= STALL // 2
    check_complete(folder, mode)


@every_mode
async def test_a_silent_connection_is_replaced(held: Held, folder: Path, mode: Mode) -> None:
    export = await held.completed(LARGE)
    async with stalled(export, folder, mode, "--timeout", "0.3") as (process, _):
        assert await process.exit_code() == 0, process.stderr
    check_complete(folder, mode)


async def test_a_silent_connection_to_a_growing_export_is_replaced(held: Held, folder: Path) -> None:
    """The connection is silent while the export grows, and stays so: only another one gets the rest."""
    export = await held.export(LARGE, at=1)
    async with stalled(export, folder, GZIP, "--timeout", "0.5") as (process, _):
        await held.open()
        assert await process.exit_code() == 0, process.stderr
    check_complete(folder, GZIP)


async def test_silence_of_a_growing_export_that_does_not_grow_is_no_failure(held: Held, folder: Path) -> None:
    export = await held.export(LARGE, at=1)
    command = "pull", export.url, "--gzip", "-o", "x.csv.gz", "--timeout", "0.1", "--max-tries", "2"
    async with streamer(*command, folder=folder) as process:
        await grown(folder / GZIP.part)
        await asyncio.sleep(1.0)  # ten times as long as the client waits for bytes
        await held.open()
        assert await process.exit_code() == 0, process.stderr
    check_complete(folder, GZIP)


@every_mode
async def test_a_full_disk_is_one_sentence_and_the_next_run_resumes(held: Held, folder: Path, mode: Mode) -> None:
    export = await held.completed(LARGE)
    assert await limited(folder, STALL, export, mode) == f"{mode.part}: File too large"
    assert mode.name not in names(folder)
    await pull(folder, export.url, mode)
    check_complete(folder, mode)


async def test_a_disk_without_room_for_the_decoded_file_keeps_the_compressed_bytes(held: Held, folder: Path) -> None:
    export = await held.completed(LARGE)
    assert await limited(folder, len(WHOLE) - 1, export, COMPRESSED) == "x.csv.part.decoded: File too large"
    assert names(folder) == {"x.csv.part", "x.csv.part.json"}
    length = len(content_of(folder / "x.csv.part") or b"")
    process = await pull(folder, export.url, COMPRESSED, "--json")
    assert json.loads(process.stdout[0])["alreadyThere"] == length == len(await file_of(export, Coding.GZIP))
    check_complete(folder, COMPRESSED)


@every_mode
async def test_a_pull_survives_the_restart_of_a_killed_server(
    database: str, session: aiohttp.ClientSession, folder: Path, tmp_path: Path, mode: Mode
) -> None:
    async with pulling_from_a_killed_server(database, session, folder, mode) as (pulls, restarted), restarted:
        assert await pulls.exit_code(within=LATE) == 0, pulls.stderr
    assert mode.csv(folder) == content_of(folder / "first.csv")
    assert names(folder) == {"first.csv", mode.name}


async def test_a_compressed_file_that_a_killed_server_was_making_is_made_again_for_the_pull(
    database: str, session: aiohttp.ClientSession, folder: Path, tmp_path: Path
) -> None:
    killed = pulling_from_a_killed_server(database, session, folder, GZIP, finished=False)
    async with killed as (pulls, restarted), restarted:
        assert await pulls.exit_code(within=LATE) == 0, pulls.stderr
    assert GZIP.csv(folder) == content_of(folder / "first.csv")


@every_mode
async def test_a_compressed_file_that_a_server_has_lost_is_made_again_for_the_pull(
    database: str, session: aiohttp.ClientSession, folder: Path, tmp_path: Path, mode: Mode
) -> None:
    async with pulling_from_a_killed_server(database, session, folder, mode) as (pulls, restarted):
        lose(tmp_path / "spool", mode.coding)
        async with restarted:
            assert await pulls.exit_code(within=LATE) == 0, pulls.stderr
    assert mode.csv(folder) == content_of(folder / "first.csv")


async def test_bytes_that_can_no_longer_be_made_have_exit_status_4(
    database: str, session: aiohttp.ClientSession, folder: Path, tmp_path: Path
) -> None:
    async with pulling_from_a_killed_server(database, session, folder, GZIP) as (pulls, restarted):
        lose(tmp_path / "spool", GZIP.coding)
        async with connected(database) as hand:
            await hand.execute("UPDATE streamer.representations SET sha256 = sha256('other bytes')")
        async with restarted:
            assert await pulls.exit_code(within=LATE) == 4, pulls.stderr
    assert "could not be made again with the same bytes" in sentence(pulls)
    assert GZIP.part in names(folder)


async def test_bytes_of_the_csv_are_never_continued_as_gzip_nor_the_reverse(held: Held, folder: Path) -> None:
    export = await held.completed(LARGE)
    plain = Mode((), "x.csv", as_it_is)
    for before, after, remedy in ((COMPRESSED, plain, "with --gzip or --compressed"), (plain, COMPRESSED, "without")):
        async with stalled(export, folder, before) as (process, _):
            process.signal(signal.SIGKILL)
            await process.exit_code()
        kept = content_of(folder / "x.csv.part")
        refused = await pull(folder, export.url, after, exit_status=1)
        assert f"finish that download {remedy}" in sentence(refused)
        assert len(refused.stderr) == 1, "the same command does not resume it"
        assert content_of(folder / "x.csv.part") == kept
        process = await pull(folder, export.url, before, "--json")
        assert json.loads(process.stdout[0])["alreadyThere"] == len(kept or b"")
        check_complete(folder, before)
        (folder / "x.csv").unlink()


async def test_force_replaces_a_part_in_another_coding(held: Held, folder: Path) -> None:
    export = await held.completed(LARGE)
    async with stalled(export, folder, COMPRESSED) as (process, _):
        process.signal(signal.SIGKILL)
        await process.exit_code()
    await run(folder, "pull", export.url, "-o", "x.csv", "--force")
    check_complete(folder, COMPRESSED)


async def test_a_part_of_gzip_is_resumed_whether_it_will_be_decoded_or_not(held: Held, folder: Path) -> None:
    export = await held.completed(LARGE)
    async with stalled(export, folder, COMPRESSED) as (process, _):
        process.signal(signal.SIGKILL)
        await process.exit_code()
    process = await run(folder, "pull", export.url, "--gzip", "-o", "x.csv", "--json")
    assert json.loads(process.stdout[0])["alreadyThere"] > 0
    assert gzip.decompress(content_of(folder / "x.csv") or b"") == WHOLE


@every_mode
async def test_standard_output_gets_every_byte(held: Held, folder: Path, mode: Mode) -> None:
    export = await held.completed(LARGE)
    script = f"{STREAMER} pull {export.url} {' '.join(mode.options)} -o - > {mode.name}"
    assert await by_shell(folder, script) == (0, "")
    check_complete(folder, mode)


@every_mode
async def test_export_creates_follows_and_saves(held: Held, folder: Path, mode: Mode) -> None:
    command = "export", "--dataset", LARGE.name, *mode.options, "-o", mode.name
    await run(folder, *command, place={"STREAMER_URL": held.url})
    check_complete(folder, mode)


async def test_an_interrupted_export_names_the_command_that_continues_it(held: Held, folder: Path) -> None:
    await held.export(LARGE, at=1)  # it shuts the gates
    command = "export", "--dataset", LARGE.name, "--gzip", "-o", "x.csv.gz"
    async with streamer(*command, folder=folder, environment={"STREAMER_URL": held.url}) as process:
        await grown(folder / GZIP.part)
        process.signal(signal.SIGINT)
        assert await process.exit_code() == 130
    assert "--gzip -o x.csv.gz" in process.stderr[1]


@pytest.mark.parametrize("coding", [Coding.GZIP, Coding.ZSTD])
async def test_the_url_of_a_compressed_file_saves_that_file(held: Held, folder: Path, coding: Coding) -> None:
    export = await held.completed(LARGE)
    await run(folder, "pull", f"{export.url}{coding.suffix}")
    assert content_of(folder / f"export_{export.id}{coding.suffix}") == await file_of(export, coding)
    await run(folder, "pull", f"{export.url}{coding.suffix}", "--compressed")
    assert content_of(folder / f"export_{export.id}.csv") == WHOLE


@every_mode
async def test_an_export_that_ends_badly_has_its_exit_status(held: Held, folder: Path, mode: Mode) -> None:
    for status, ends in ((3, HeldExport.fail), (4, HeldExport.cancel)):
        export = await held.export(LARGE, at=1)
        async with streamer("pull", export.url, *mode.options, "-o", mode.name, "--force", folder=folder) as process:
            await grown(folder / mode.part)
            await ends(export)
            assert await process.exit_code() == status, process.stderr
        assert mode.name not in names(folder)


@every_mode
async def test_a_server_without_compressed_files_is_one_sentence(folder: Path, mode: Mode) -> None:
    async with pretending(b"id\n1\n") as pretender:
        process = await pull(folder, pretender.download, mode, exit_status=1)
        assert sentence(process) == (
            f"streamer: the server has no {mode.coding} files: it is older than this client; the CSV itself is at"
            f" {pretender.download}"
        )
        assert names(folder) == set()


async def test_zstd_without_a_decoder_is_stored_and_not_decoded(held: Held, folder: Path) -> None:
    export = await held.completed(LARGE)
    place = {"DOWNLOAD": export.url, **environment(folder)}
    for options, status in ((["--zstd", "-o", "x.csv.zst"], 0), (["--zstd", "--compressed", "-o", "x.csv"], 1)):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WITHOUT_ZSTD, "pull", export.url, *options),
            cwd=folder,
            env=place,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
        assert process.returncode == status, said
    assert said.decode() == (
        "streamer: zstd cannot be decoded here: install backports.zstd (Python 3.14 needs no package), or use gzip\n"
    )
    check_complete(folder, ZSTD)


@pytest.mark.parametrize(
    "arguments",
    [
        ("pull", "x", "--gzip", "--zstd"),
        ("export", "--no-wait", "--gzip"),
        ("export", "--no-wait", "--compressed"),
    ],
)
async def test_wrong_usage_has_exit_status_2(folder: Path, arguments: tuple[str, ...]) -> None:
    process = await run(folder, *arguments, exit_status=2)
    assert process.stderr[0].startswith("Usage: ")


WITHOUT_ZSTD = """
import sys
sys.modules.update({"compression": None, "compression.zstd": None, "backports": None, "backports.zstd": None})
from streamer.cli import main
main()
"""


def lose(spool: Path, coding: Coding) -> None:
    (file,) = spool.rglob(f"*{coding.suffix}")
    file.unlink()


async def file_of(export: HeldExport, coding: Coding) -> bytes:
    return (await ask(export.held.url, "GET", f"{export.download}{coding.suffix}")).body


async def limited(folder: Path, size: int, export: HeldExport, mode: Mode) -> str:
    """Returns the sentence of a pull whose files may have `size` bytes."""
    command = [sys.executable, "-c", LIMITED, str(size), str(STREAMER), "pull", export.url]
    process = await asyncio.create_subprocess_exec(
        *(*command, *mode.options, "-o", mode.name),
        cwd=folder,
        stderr=asyncio.subprocess.PIPE,
        env=environment(folder),
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    return said.decode().splitlines()[0].removeprefix("streamer: ")
