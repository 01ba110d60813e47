"""What real download clients leave behind: the identical file, or an exit status that says it is not.

Exit status 0 and other bytes is the one outcome that must never be. A client that fails leaves a beginning of the
export and nothing else, so that its next attempt is safe too.
"""

import asyncio
import hashlib
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

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
)
from tests.acceptance.gated import DATASET, GATES, Gated, body, frontier
from tests.acceptance.relay import BreakingRelay, StallingRelay, relaying

FIRST = frontier(GATES[0])
STALL = 100_000  # bytes that a client gets before it is held in the middle of a download
LONGER = b"and some more\n"
PATIENCE = 60.0  # seconds for a local file to grow

End = Callable[[Gated, str], Awaitable[None]]


def runnable(client: Client) -> pytest.MarkDecorator:
    return pytest.mark.skipif(client.missing, reason=f"{client.name}: the program is not installed")


def each(clients: Iterable[Client]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "client", [pytest.param(client, id=client.name, marks=runnable(client)) for client in clients]
    )


bad_ends = pytest.mark.parametrize(
    "end", [pytest.param(Gated.fail, id="fails"), pytest.param(Gated.cancel, id="is_cancelled")]
)
several_seeds = pytest.mark.parametrize(
    "chance", [pytest.param(seed, id=f"seed_{seed or 'drawn'}") for seed in (1, 2, None)], indirect=True
)


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
    assert sha256(path.read_bytes()) == sha256(body()), f"exit 0, and {path.stat().st_size} other bytes; {outcome.said}"


def assert_failed(outcome: Outcome, path: Path) -> None:
    assert outcome.exit_status != 0, outcome
    assert not path.exists() or body().startswith(path.read_bytes()), f"not a beginning of the export; {outcome.said}"


def assert_never_wrong(outcome: Outcome, path: Path) -> None:
    if outcome.exit_status == 0:
        assert_identical(outcome, path)
    else:
        assert_failed(outcome, path)


def assert_resumed(client: Client, outcome: Outcome, path: Path) -> None:
    """Of a sealed export."""
    if client.resumes is Resumes.NEVER:
        assert_never_wrong(outcome, path)
    else:
        assert_identical(outcome, path)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def grown(path: Path, size: int, client: "asyncio.Task[Outcome]") -> None:
    """Returns when the local file has so many bytes. Nobody but the file can tell."""
    deadline = time.monotonic() + PATIENCE
    while size_of(path) < size:
        assert not client.done(), client.result()
        assert time.monotonic() < deadline, f"{size_of(path)} of {size} bytes"
        await asyncio.sleep(0.005)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def offsets(chance: random.Random, end: int) -> Sequence[int]:
    """Where partial files end: the first and the last places that there are, and a few between them."""
    return (1, *(chance.randrange(2, end - 1) for _ in range(3)), end - 1, end)


@each(EVERY)
async def test_fresh_download_of_a_growing_export_is_identical(client: Client, gated: Gated, files: LocalFiles) -> None:
    url, path = await gated.held(), files.nothing()
    task = asyncio.create_task(client.fetch(url, path))
    for gate in GATES:
        await grown(path, frontier(gate), task)
        await gated.open(gate)
    assert_identical(await task, path)


@each(EVERY)
async def test_fresh_download_of_a_sealed_export_is_identical(client: Client, gated: Gated, files: LocalFiles) -> None:
    path = files.nothing()
    assert_identical(await client.fetch(await gated.sealed(), path), path)


@several_seeds
@each((CURL, WGET, ARIA2C, LIKE_HTTPIE, CURL_GZIP, WGET_GZIP))
async def test_download_resumed_while_the_export_grows(
    client: Client, gated: Gated, files: LocalFiles, chance: random.Random
) -> None:
    url = await gated.held()
    unheard_of = chance.randrange(FIRST + 1, len(body()))  # bytes, of which the server has fewer
    paths = [files.partial(body()[:offset]) for offset in (*offsets(chance, FIRST), unheard_of)]
    tasks = [asyncio.create_task(client.fetch(url, path)) for path in paths]
    if client.resumes is not Resumes.ALWAYS:
        for path, task in zip(paths, tasks, strict=True):
            assert_failed(await task, path)
        return
    for gate in GATES:
        await asyncio.gather(*(grown(path, frontier(gate), task) for path, task in zip(paths, tasks, strict=True)))
        await gated.open(gate)
    for path, task in zip(paths, tasks, strict=True):
        assert_identical(await task, path)


@several_seeds
@each((CURL, WGET, ARIA2C, LIKE_HTTPIE, CURL_GZIP, WGET_GZIP))
async def test_download_resumed_after_the_export_is_sealed(
    client: Client, gated: Gated, files: LocalFiles, chance: random.Random
) -> None:
    url = await gated.sealed()
    paths = [files.partial(body()[:offset]) for offset in offsets(chance, len(body()) - 1)]
    for outcome, path in zip(await asyncio.gather(*(client.fetch(url, path) for path in paths)), paths, strict=True):
        assert_resumed(client, outcome, path)


@each(EVERY)
async def test_download_killed_while_the_export_grows_is_resumed_after_the_seal(
    client: Client, gated: Gated, files: LocalFiles
) -> None:
    url, path = await gated.held(), files.nothing()
    await kill_in_the_middle(client, gated, url, path)
    await gated.open_all()
    await gated.ended(url)
    assert_resumed(client, await client.fetch(url, path), path)


@each(EVERY)
async def test_killed_download_of_a_sealed_export_is_resumed(client: Client, gated: Gated, files: LocalFiles) -> None:
    """With what the client itself leaves behind: aria2c has several pieces, and a file that says which."""
    url, path = await gated.sealed(), files.nothing()
    await kill_in_the_middle(client, gated, url, path)
    assert_resumed(client, await client.fetch(url, path), path)


@bad_ends
@each(EVERY)
async def test_caught_up_download_fails_with_the_export(
    client: Client, end: End, gated: Gated, files: LocalFiles, chance: random.Random
) -> None:
    """The end comes between two chunks."""
    url = await gated.held()
    paths = [files.nothing(), *(files.partial(body()[:offset]) for offset in offsets(chance, FIRST))]
    tasks = [asyncio.create_task(client.fetch(url, path)) for path in paths]
    if client.resumes is Resumes.ALWAYS:
        await asyncio.gather(*(grown(path, FIRST, task) for path, task in zip(paths, tasks, strict=True)))
    else:
        await grown(paths[0], FIRST, tasks[0])
    await end(gated, url)
    for path, task in zip(paths, tasks, strict=True):
        assert_failed(await task, path)


@bad_ends
@each(EVERY)
async def test_slow_download_fails_with_the_export(client: Client, end: End, gated: Gated, files: LocalFiles) -> None:
    """The end comes within a chunk."""
    url = await gated.held()
    paths = [files.nothing(), files.partial(body()[:1000])]
    async with stalled(client, gated, url, paths) as tasks:
        await end(gated, url)
    for path, task in zip(paths, tasks, strict=True):
        assert_failed(await task, path)


@each(EVERY)
async def test_slow_download_outlasts_the_export(client: Client, gated: Gated, files: LocalFiles) -> None:
    url = await gated.held()
    paths = [files.nothing(), files.partial(body()[:1000])]
    async with stalled(client, gated, url, paths) as tasks:
        await gated.open_all()
        await gated.ended(url)
    assert_identical(await tasks[0], paths[0])
    if client.resumes is Resumes.ALWAYS:
        assert_identical(await tasks[1], paths[1])
    else:
        assert_failed(await tasks[1], paths[1])


@each(EVERY)
async def test_sealed_export_that_is_deleted_in_the_middle_of_a_download(
    client: Client, gated: Gated, files: LocalFiles
) -> None:
    """Whoever has the file open reads it to its end; a connection more, and the export is gone."""
    url = await gated.sealed()
    paths = [files.nothing(), files.partial(body()[:1000])]
    async with stalled(client, gated, url, paths) as tasks:
        await gated.cancel(url)
    for path, task in zip(paths, tasks, strict=True):
        assert_never_wrong(await task, path)


@bad_ends
@each(PLAIN)
async def test_download_resumed_after_a_bad_end_fails(
    client: Client, end: End, gated: Gated, files: LocalFiles, chance: random.Random
) -> None:
    url = await gated.held()
    await end(gated, url)
    paths = [files.partial(body()[:offset]) for offset in offsets(chance, FIRST)]
    for outcome, path in zip(await asyncio.gather(*(client.fetch(url, path) for path in paths)), paths, strict=True):
        assert_failed(outcome, path)


@each([CURL_WITHOUT_FAIL])
async def test_partial_file_as_long_as_the_refusal_is_not_taken_for_the_whole(
    client: Client, gated: Gated, files: LocalFiles, session: aiohttp.ClientSession
) -> None:
    url = await gated.held()
    await gated.fail(url)
    async with session.get(url) as refused:
        assert refused.status == 409
        path = files.partial(body()[: len(await refused.read())])
    assert_failed(await client.fetch(url, path), path)


@each(PLAIN)
async def test_complete_file_is_left_as_it_is(client: Client, gated: Gated, files: LocalFiles) -> None:
    """416 before the end would be taken for a complete file, so the answer waits for the end."""
    url, early, late = await gated.held(), files.partial(body()), files.partial(body())
    task = asyncio.create_task(client.fetch(url, early))
    await gated.open_all()
    await gated.ended(url)
    for outcome, path in ((await task, early), (await client.fetch(url, late), late)):
        assert_never_wrong(outcome, path)
        assert path.read_bytes() == body()


@pytest.mark.xfail(strict=True, reason="416 means to these clients that the file is complete, however long it is")
@each((WGET, CURL_WITHOUT_FAIL))
async def test_file_longer_than_the_export_is_not_taken_for_it(client: Client, gated: Gated, files: LocalFiles) -> None:
    url, path = await gated.sealed(), files.partial(body() + LONGER)
    outcome = await client.fetch(url, path)
    assert outcome.exit_status != 0, outcome


@each(PLAIN)
async def test_file_longer_than_the_export_gets_nothing_added(client: Client, gated: Gated, files: LocalFiles) -> None:
    url = await gated.held()
    early, late = files.partial(body() + LONGER), files.partial(body() + LONGER)
    task = asyncio.create_task(client.fetch(url, early))
    await gated.open_all()
    await task
    await client.fetch(url, late)
    for path in (early, late):
        assert path.read_bytes() == body() + LONGER


@each((CURL, CURL_WITHOUT_FAIL, WGET))
async def test_partial_file_is_not_continued_with_a_new_export(
    client: Client, gated: Gated, files: LocalFiles, chance: random.Random
) -> None:
    name = f"csv?dataset={DATASET}"
    paths = [files.partial(body()[:offset], name) for offset in offsets(chance, len(body()))]
    for path in paths:
        before = path.stat().st_size
        outcome = await client.fetch(f"{gated.server.url}/exports/{name}", path)
        assert_failed(outcome, path)
        assert path.stat().st_size == before
    assert await gated.started() == 0


@each((ARIA2C, LIKE_HTTPIE))
async def test_partial_file_and_a_new_export_are_never_spliced(
    client: Client, gated: Gated, files: LocalFiles, chance: random.Random
) -> None:
    name = f"csv?dataset={DATASET}"
    for offset in offsets(chance, len(body())):
        path = files.partial(body()[:offset], name)
        assert_never_wrong(await client.fetch(f"{gated.server.url}/exports/{name}", path), path)


@several_seeds
@each((WGET, WGET_GZIP, ARIA2C))
async def test_retries_over_breaking_connections_while_the_export_grows(
    client: Client, gated: Gated, files: LocalFiles, chance: random.Random
) -> None:
    url, path = await gated.held(), files.nothing()
    relay = BreakingRelay(gated.server.url, chance, breaks=4, least=1, most=100_000)
    async with relaying(relay) as relayed:
        task = asyncio.create_task(client.fetch(url.replace(gated.server.url, relayed), path))
        await grown(path, FIRST, task)
        await gated.open_all()
        assert_identical(await task, path)
        assert relay.breaks == 0


@several_seeds
@each((WGET, WGET_GZIP, ARIA2C))
async def test_retries_over_breaking_connections_after_the_seal(
    client: Client, gated: Gated, files: LocalFiles, chance: random.Random
) -> None:
    url, path = await gated.sealed(), files.nothing()
    relay = BreakingRelay(gated.server.url, chance, breaks=4, least=1, most=100_000)
    async with relaying(relay) as relayed:
        assert_identical(await client.fetch(url.replace(gated.server.url, relayed), path), path)
        assert relay.breaks == 0


@each((WGET, WGET_GZIP))
async def test_retry_of_a_new_export_fails(
    client: Client, gated: Gated, files: LocalFiles, chance: random.Random
) -> None:
    """The retry asks for the rest of what has another id by now."""
    name = f"csv?dataset={DATASET}"
    path = files.nothing(name)
    relay = BreakingRelay(gated.server.url, chance, breaks=1, least=10_000, most=100_000)
    async with relaying(relay) as relayed:
        assert_failed(await client.fetch(f"{relayed}/exports/{name}", path), path)


@several_seeds
@each((CURL, CURL_GZIP, LIKE_HTTPIE))
async def test_started_again_after_every_break_it_gets_the_identical_file(
    client: Client, gated: Gated, files: LocalFiles, chance: random.Random
) -> None:
    url, path = await gated.held(), files.nothing()
    relay = BreakingRelay(gated.server.url, chance, breaks=4, least=1, most=100_000)
    async with relaying(relay) as relayed:
        while relay.breaks:
            outcome = await client.fetch(url.replace(gated.server.url, relayed), path)
            assert_failed(outcome, path)
        task = asyncio.create_task(client.fetch(url.replace(gated.server.url, relayed), path))
        await grown(path, FIRST, task)
        await gated.open_all()
        assert_identical(await task, path)


async def kill_in_the_middle(client: Client, gated: Gated, url: str, path: Path) -> None:
    async with stalled(client, gated, url, [path]) as tasks:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@asynccontextmanager
async def stalled(
    client: Client, gated: Gated, url: str, paths: Sequence[Path]
) -> AsyncIterator[Sequence["asyncio.Task[Outcome]"]]:
    """The client has the beginning of each download, or has refused to go on with it; the rest comes afterwards."""
    relay = StallingRelay(gated.server.url, STALL)
    before = [size_of(path) for path in paths]
    async with relaying(relay) as relayed:
        tasks = [asyncio.create_task(client.fetch(url.replace(gated.server.url, relayed), path)) for path in paths]
        for path, size, task in zip(paths, before, tasks, strict=True):
            if size and client.resumes is not Resumes.ALWAYS:
                continue
            await grown(path, size + 1, task)
        yield tasks
        relay.release()
        await asyncio.wait(tasks)
