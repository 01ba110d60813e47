"""Real download clients: they leave the identical file, or an exit status that reports a failure.

Exit status 0 with other bytes must never happen. A client that fails leaves a beginning of the export and no other
bytes, so that its next attempt is safe, too.
"""

import asyncio
import hashlib
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.acceptance.clients import (
    ARIA2C,
    CURL,
    CURL_GZIP,
    CURL_WITHOUT_FAIL,
    EVERY,
    LIKE_HTTPIE,
    PLAIN,
    WGET,
    WGET_GZIP,
    Client,
    Outcome,
    Resumes,
    grown,
    size_of,
)
from tests.acceptance.relay import BreakingRelay, StallingRelay, relaying
from tests.held import LARGE, Held, HeldExport, gated_server, scratch_database
from tests.rawhttp import ask

WHOLE = LARGE.whole
FIRST = len(LARGE.through(1))
STALL = 100_000  # bytes that a client gets before it is held in the middle of a download
LONGER = b"and some more\n"
GAP = 0  # what a file holds where nothing was written; no export does

End = Callable[[HeldExport], Awaitable[None]]

pytestmark = pytest.mark.asyncio(loop_scope="module")


def runnable(client: Client) -> pytest.MarkDecorator:
    return pytest.mark.skipif(client.missing, reason=f"{client.name}: the program is not installed")


def each(clients: Iterable[Client]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "client", [pytest.param(client, id=client.name, marks=runnable(client)) for client in clients]
    )


bad_ends = pytest.mark.parametrize(
    "end", [pytest.param(HeldExport.fail, id="fails"), pytest.param(HeldExport.cancel, id="is_cancelled")]
)
several_seeds = pytest.mark.parametrize(
    "chance",
    [
        pytest.param(1, id="seed_1"),
        pytest.param(2, id="seed_2", marks=pytest.mark.sweep),
        pytest.param(None, id="seed_drawn"),
    ],
    indirect=True,
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Held]:
    async with (
        scratch_database(postgres) as database,
        gated_server(database, tmp_path_factory.mktemp("spool"), [LARGE.name]) as started,
    ):
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def held(server: Held) -> AsyncIterator[Held]:
    """The server. It has no work before and after the test."""
    yield server
    await server.settle()


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    seed = getattr(request, "param", None)
    if seed is None:
        seed = secrets.randbelow(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


class LocalFiles:
    """Local files, each in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def partial(self, content: bytes, name: str = "download") -> Path:
        path = self.nothing(name)
        path.write_bytes(content)
        return path

    def nothing(self, name: str = "download") -> Path:
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        return folder / name


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    folder = tmp_path / "files"
    folder.mkdir()
    return LocalFiles(folder)


def assert_identical(outcome: Outcome, path: Path) -> None:
    assert outcome.exit_status == 0, outcome
    assert sha256(path.read_bytes()) == sha256(WHOLE), f"exit 0, and {path.stat().st_size} other bytes; {outcome.said}"


def assert_failed(outcome: Outcome, path: Path) -> None:
    assert outcome.exit_status != 0, outcome
    assert not path.exists() or is_a_part(path), f"not a part of the export; {outcome.said}"


def is_a_part(path: Path) -> bool:
    """Whether the file is a beginning of the export; a client that stores which pieces it has may leave gaps."""
    content = path.read_bytes()
    if WHOLE.startswith(content):
        return True
    noted = path.with_name(f"{path.name}.aria2").exists()
    right = len(content) <= len(WHOLE) and all(
        got in (wanted, GAP) for got, wanted in zip(content, WHOLE, strict=False)
    )
    return noted and right


def assert_never_wrong(outcome: Outcome, path: Path) -> None:
    if outcome.exit_status == 0:
        assert_identical(outcome, path)
    else:
        assert_failed(outcome, path)


def assert_resumed(client: Client, outcome: Outcome, path: Path) -> None:
    """Resumes a download of a sealed export, and compares the files."""
    if client.resumes is Resumes.NEVER:
        assert_never_wrong(outcome, path)
    else:
        assert_identical(outcome, path)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def offsets(chance: random.Random, end: int) -> Sequence[int]:
    """Returns the lengths of partial files: the shortest, the longest, and a few between them."""
    return (1, *(chance.randrange(2, end - 1) for _ in range(3)), end - 1, end)


@each(EVERY)
async def test_fresh_download_of_a_growing_export_is_identical(client: Client, held: Held, files: LocalFiles) -> None:
    export, path = await held.export(LARGE, at=1), files.nothing()
    task = asyncio.create_task(client.fetch(export.url, path))
    for step in range(1, LARGE.last):
        await grown(path, len(LARGE.through(step)), task)
        await held.open(step + 1)
    assert_identical(await task, path)


@each(EVERY)
async def test_fresh_download_of_a_sealed_export_is_identical(client: Client, held: Held, files: LocalFiles) -> None:
    path = files.nothing()
    assert_identical(await client.fetch((await held.completed(LARGE)).url, path), path)


@several_seeds
@each((CURL, WGET, ARIA2C, LIKE_HTTPIE, CURL_GZIP, WGET_GZIP))
async def test_download_resumed_while_the_export_grows(
    client: Client, held: Held, files: LocalFiles, chance: random.Random
) -> None:
    export = await held.export(LARGE, at=1)
    unheard_of = chance.randrange(FIRST + 1, len(WHOLE))  # bytes, of which the server has fewer
    paths = [files.partial(WHOLE[:offset]) for offset in (*offsets(chance, FIRST), unheard_of)]
    tasks = [asyncio.create_task(client.fetch(export.url, path)) for path in paths]
    if client.resumes is not Resumes.ALWAYS:
        for path, task in zip(paths, tasks, strict=True):
            assert_failed(await task, path)
        return
    for step in range(1, LARGE.last):
        there = len(LARGE.through(step))
        await asyncio.gather(*(grown(path, there, task) for path, task in zip(paths, tasks, strict=True)))
        await held.open(step + 1)
    for path, task in zip(paths, tasks, strict=True):
        assert_identical(await task, path)


@several_seeds
@each((CURL, WGET, ARIA2C, LIKE_HTTPIE, CURL_GZIP, WGET_GZIP))
async def test_download_resumed_after_the_export_is_sealed(
    client: Client, held: Held, files: LocalFiles, chance: random.Random
) -> None:
    export = await held.completed(LARGE)
    paths = [files.partial(WHOLE[:offset]) for offset in offsets(chance, len(WHOLE) - 1)]
    for outcome, path in zip(
        await asyncio.gather(*(client.fetch(export.url, path) for path in paths)), paths, strict=True
    ):
        assert_resumed(client, outcome, path)


@each(EVERY)
async def test_download_killed_while_the_export_grows_is_resumed_after_the_seal(
    client: Client, held: Held, files: LocalFiles
) -> None:
    export, path = await held.export(LARGE, at=1), files.nothing()
    await kill_in_the_middle(client, export, path)
    await held.open()
    await export.becomes("completed")
    assert_resumed(client, await client.fetch(export.url, path), path)


@each(EVERY)
async def test_killed_download_of_a_sealed_export_is_resumed(client: Client, held: Held, files: LocalFiles) -> None:
    """Resumes the files that the client itself leaves: aria2c has several pieces, and a file that lists them."""
    export, path = await held.completed(LARGE), files.nothing()
    await kill_in_the_middle(client, export, path)
    assert_resumed(client, await client.fetch(export.url, path), path)


@bad_ends
@each(EVERY)
async def test_caught_up_download_fails_with_the_export(
    client: Client, end: End, held: Held, files: LocalFiles, chance: random.Random
) -> None:
    """The export fails between two chunks."""
    export = await held.export(LARGE, at=1)
    paths = [files.nothing(), *(files.partial(WHOLE[:offset]) for offset in offsets(chance, FIRST))]
    tasks = [asyncio.create_task(client.fetch(export.url, path)) for path in paths]
    if client.resumes is Resumes.ALWAYS:
        await asyncio.gather(*(grown(path, FIRST, task) for path, task in zip(paths, tasks, strict=True)))
    else:
        await grown(paths[0], FIRST, tasks[0])
    await end(export)
    for path, task in zip(paths, tasks, strict=True):
        assert_failed(await task, path)


@bad_ends
@each(EVERY)
async def test_slow_download_fails_with_the_export(client: Client, end: End, held: Held, files: LocalFiles) -> None:
    """The export fails within a chunk."""
    export = await held.export(LARGE, at=1)
    paths = [files.nothing(), files.partial(WHOLE[:1000])]
    async with stalled(client, export, paths) as tasks:
        await end(export)
    for path, task in zip(paths, tasks, strict=True):
        assert_failed(await task, path)


@each(EVERY)
async def test_slow_download_outlasts_the_export(client: Client, held: Held, files: LocalFiles) -> None:
    export = await held.export(LARGE, at=1)
    paths = [files.nothing(), files.partial(WHOLE[:1000])]
    async with stalled(client, export, paths) as tasks:
        await held.open()
        await export.becomes("completed")
    assert_identical(await tasks[0], paths[0])
    if client.resumes is Resumes.ALWAYS:
        assert_identical(await tasks[1], paths[1])
    else:
        assert_failed(await tasks[1], paths[1])


@each(EVERY)
async def test_export_deleted_during_a_download(client: Client, held: Held, files: LocalFiles) -> None:
    """An open download is read to its end; a further connection gets 410."""
    export = await held.completed(LARGE)
    paths = [files.nothing(), files.partial(WHOLE[:1000])]
    async with stalled(client, export, paths) as tasks:
        await export.cancel()
    for path, task in zip(paths, tasks, strict=True):
        assert_never_wrong(await task, path)


@bad_ends
@each(PLAIN)
async def test_download_resumed_after_the_export_failed_fails(
    client: Client, end: End, held: Held, files: LocalFiles, chance: random.Random
) -> None:
    export = await held.export(LARGE, at=1)
    await end(export)
    paths = [files.partial(WHOLE[:offset]) for offset in offsets(chance, FIRST)]
    for outcome, path in zip(
        await asyncio.gather(*(client.fetch(export.url, path) for path in paths)), paths, strict=True
    ):
        assert_failed(outcome, path)


@each([CURL_WITHOUT_FAIL])
async def test_partial_file_as_long_as_the_error_body_is_not_taken_for_complete(
    client: Client, held: Held, files: LocalFiles
) -> None:
    export = await held.export(LARGE, at=1)
    await export.fail()
    refused = await ask(held.url, "GET", f"/exports/{export.id}/download")
    assert refused.status == 409
    path = files.partial(WHOLE[: len(refused.body)])
    assert_failed(await client.fetch(export.url, path), path)


@each(PLAIN)
async def test_complete_file_stays_unchanged(client: Client, held: Held, files: LocalFiles) -> None:
    """Clients take a 416 for a complete file, so the server delays it until the export has ended."""
    export, early, late = await held.export(LARGE, at=1), files.partial(WHOLE), files.partial(WHOLE)
    task = asyncio.create_task(client.fetch(export.url, early))
    await held.open()
    await export.becomes("completed")
    for outcome, path in ((await task, early), (await client.fetch(export.url, late), late)):
        assert_never_wrong(outcome, path)
        assert path.read_bytes() == WHOLE


@pytest.mark.xfail(strict=True, reason="416 means to these clients that the file is complete, however long it is")
@each((WGET, CURL_WITHOUT_FAIL))
async def test_file_longer_than_the_export_is_not_taken_for_complete(
    client: Client, held: Held, files: LocalFiles
) -> None:
    export, path = await held.completed(LARGE), files.partial(WHOLE + LONGER)
    outcome = await client.fetch(export.url, path)
    assert outcome.exit_status != 0, outcome


@each(PLAIN)
async def test_file_longer_than_the_export_gets_nothing_added(client: Client, held: Held, files: LocalFiles) -> None:
    export = await held.export(LARGE, at=1)
    early, late = files.partial(WHOLE + LONGER), files.partial(WHOLE + LONGER)
    task = asyncio.create_task(client.fetch(export.url, early))
    await held.open()
    await task
    await client.fetch(export.url, late)
    for path in (early, late):
        assert path.read_bytes() == WHOLE + LONGER


@each((CURL, CURL_WITHOUT_FAIL, WGET))
async def test_partial_file_is_not_continued_with_a_new_export(
    client: Client, held: Held, files: LocalFiles, chance: random.Random
) -> None:
    name, exports = f"csv?dataset={LARGE.name}", await held.exports()
    paths = [files.partial(WHOLE[:offset], name) for offset in offsets(chance, len(WHOLE))]
    for path in paths:
        before = path.stat().st_size
        outcome = await client.fetch(f"{held.url}/exports/{name}", path)
        assert_failed(outcome, path)
        assert path.stat().st_size == before
    assert await held.exports() == exports


@each((ARIA2C, LIKE_HTTPIE))
async def test_partial_file_and_a_new_export_are_never_spliced(
    client: Client, held: Held, files: LocalFiles, chance: random.Random
) -> None:
    name = f"csv?dataset={LARGE.name}"
    for offset in offsets(chance, len(WHOLE)):
        path = files.partial(WHOLE[:offset], name)
        assert_never_wrong(await client.fetch(f"{held.url}/exports/{name}", path), path)


@several_seeds
@each((WGET, WGET_GZIP, ARIA2C))
async def test_retries_over_breaking_connections_while_the_export_grows(
    client: Client, held: Held, files: LocalFiles, chance: random.Random
) -> None:
    export, path = await held.export(LARGE, at=1), files.nothing()
    relay = BreakingRelay(held.url, chance, breaks=4, least=1, most=100_000)
    async with relaying(relay) as relayed:
        task = asyncio.create_task(client.fetch(relayed + export.download, path))
        await grown(path, FIRST, task)
        await held.open()
        assert_identical(await task, path)
        assert relay.breaks == 0


@several_seeds
@each((WGET, WGET_GZIP, ARIA2C))
async def test_retries_over_breaking_connections_after_the_seal(
    client: Client, held: Held, files: LocalFiles, chance: random.Random
) -> None:
    export, path = await held.completed(LARGE), files.nothing()
    relay = BreakingRelay(held.url, chance, breaks=4, least=1, most=100_000)
    async with relaying(relay) as relayed:
        assert_identical(await client.fetch(relayed + export.download, path), path)
        assert relay.breaks == 0


@each((WGET, WGET_GZIP))
async def test_retry_of_a_new_export_fails(
    client: Client, held: Held, files: LocalFiles, chance: random.Random
) -> None:
    """The retry requests the rest of an export that has another id by now."""
    name = f"csv?dataset={LARGE.name}"
    path = files.nothing(name)
    relay = BreakingRelay(held.url, chance, breaks=1, least=10_000, most=100_000)
    async with relaying(relay) as relayed:
        assert_failed(await client.fetch(f"{relayed}/exports/{name}", path), path)


@several_seeds
@each((CURL, CURL_GZIP, LIKE_HTTPIE))
async def test_client_restarted_after_every_break_gets_the_identical_file(
    client: Client, held: Held, files: LocalFiles, chance: random.Random
) -> None:
    export, path = await held.export(LARGE, at=1), files.nothing()
    relay = BreakingRelay(held.url, chance, breaks=4, least=1, most=100_000)
    async with relaying(relay) as relayed:
        while relay.breaks:
            outcome = await client.fetch(relayed + export.download, path)
            assert_failed(outcome, path)
        task = asyncio.create_task(client.fetch(relayed + export.download, path))
        await grown(path, FIRST, task)
        await held.open()
        assert_identical(await task, path)


async def kill_in_the_middle(client: Client, export: HeldExport, path: Path) -> None:
    async with stalled(client, export, [path]) as tasks:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@asynccontextmanager
async def stalled(
    client: Client, export: HeldExport, paths: Sequence[Path]
) -> AsyncIterator[Sequence["asyncio.Task[Outcome]"]]:
    """The client has the beginning of each download, or has refused to resume it; the rest is sent afterwards."""
    relay = StallingRelay(export.held.url, STALL)
    before = [size_of(path) for path in paths]
    async with relaying(relay) as relayed:
        tasks = [asyncio.create_task(client.fetch(relayed + export.download, path)) for path in paths]
        for path, size, task in zip(paths, before, tasks, strict=True):
            if size and client.resumes is not Resumes.ALWAYS:
                continue
            await grown(path, size + 1, task)
        yield tasks
        relay.release()
        await asyncio.wait(tasks)
