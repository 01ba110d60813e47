"""Followers on real files: extents, files of their own, and both ends of a spool."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import pytest

from streamer.spool.follower import WINDOW, Extent, Follower, TruncatedError
from streamer.spool.spool import Spool
from streamer.spool.writer import Volume
from tests.unit.spools import CHUNKS, FIRST, let_the_loop_run, published, read_all, soon, write_all


@pytest.fixture
async def spool(tmp_path: Path, executor: ThreadPoolExecutor) -> AsyncIterator[Spool]:
    spool = Spool(tmp_path / "export.csv", Volume(executor, executor))
    yield spool
    spool.fail("the test is over")
    await spool.discard()


def test_extent_is_cut_by_length() -> None:
    assert Extent(10, 5).first(3) == Extent(10, 3)
    assert Extent(10, 5).first(9) == Extent(10, 5)
    assert Extent(10, 5).after(3) == Extent(13, 2)


async def test_follower_gets_extents_that_join_to_the_whole(spool: Spool) -> None:
    spool.open()
    length = 2 * WINDOW + 12_345
    content = os.urandom(length)
    await write_all(spool, [content])
    with Follower(spool) as follower:
        found = [extent async for extent in follower]
        read = b"".join(os.pread(follower.file.fileno(), extent.length, extent.offset) for extent in found)
    assert found == [Extent(0, WINDOW), Extent(WINDOW, WINDOW), Extent(2 * WINDOW, 12_345)]
    assert read == content


async def test_slow_follower_gets_all_bytes_since_in_one_extent(spool: Spool) -> None:
    spool.open()
    with Follower(spool) as follower:
        await published(spool, FIRST)
        assert await soon(anext(follower)) == Extent(0, len(FIRST))
        for page in CHUNKS[:5]:
            await published(spool, page)
        assert await soon(anext(follower)) == Extent(len(FIRST), sum(map(len, CHUNKS[:5])))


async def test_follower_of_an_empty_export_stops_without_an_extent(spool: Spool) -> None:
    spool.open()
    await write_all(spool, [])
    with Follower(spool) as follower:
        assert [extent async for extent in follower] == []


async def test_followers_that_start_at_any_time_read_the_same_bytes(spool: Spool) -> None:
    spool.open()
    digests = [hashlib.sha256() for _ in range(4)]
    reading = [asyncio.create_task(read_all(spool, digest.update)) for digest in digests[:2]]
    for number, page in enumerate(CHUNKS):
        await spool.append(page * 100, 1)
        if number == len(CHUNKS) // 2:
            await soon(spool.moved_beyond(0))
            reading.append(asyncio.create_task(read_all(spool, digests[2].update)))
    sealed = await soon(spool.finish())
    spool.seal()
    reading.append(asyncio.create_task(read_all(spool, digests[3].update)))
    await soon(asyncio.gather(*reading))
    assert {digest.digest() for digest in digests} == {sealed.sha256}
    assert sealed.sha256 == hashlib.sha256(b"".join(page * 100 for page in CHUNKS)).digest()


async def test_every_follower_has_a_file_of_its_own_and_closes_it(spool: Spool) -> None:
    spool.open()
    await published(spool, FIRST)
    with Follower(spool) as first, Follower(spool) as second:
        assert first.file is first.file
        assert first.file.fileno() != second.file.fileno()
        files = [first.file, second.file]
    assert all(file.closed for file in files)


async def test_follower_of_a_missing_file_is_truncated(spool: Spool) -> None:
    spool.open()
    await published(spool, FIRST)
    spool.path.unlink()
    with Follower(spool) as follower:
        await soon(anext(follower))
        with pytest.raises(TruncatedError, match="the file of the export is gone"):
            _ = follower.file


# Failure


async def test_follower_of_a_spool_that_is_not_open_yet_waits_for_it(spool: Spool) -> None:
    with Follower(spool) as follower:
        first = asyncio.create_task(soon(anext(follower)))
        await let_the_loop_run()
        assert not first.done()
        spool.open()
        await spool.append(FIRST, 1)
        assert await first == Extent(0, len(FIRST))
        assert os.pread(follower.file.fileno(), 100, 0) == FIRST


async def test_fail_breaks_followers_at_once_even_before_published_bytes(spool: Spool) -> None:
    spool.open()
    await published(spool, FIRST)
    with Follower(spool) as caught_up, Follower(spool) as behind:
        await anext(caught_up)
        waiting = asyncio.create_task(soon(anext(caught_up)))
        await let_the_loop_run()
        spool.fail("the database went away")
        for breaking in (waiting, soon(anext(behind))):
            with pytest.raises(TruncatedError, match=r"^the database went away$"):
                await breaking
        assert caught_up.broken.result() == behind.broken.result() == "the database went away"


async def test_fail_breaks_later_followers(spool: Spool) -> None:
    spool.fail("cancelled while it was waiting")
    with Follower(spool) as follower, pytest.raises(TruncatedError, match="cancelled while it was waiting"):
        await soon(anext(follower))
    await soon(spool.end())


async def test_range_ends_at_its_stop_without_waiting_for_more(spool: Spool) -> None:
    spool.open()
    await published(spool, FIRST)
    with Follower(spool, 3, 5) as follower:
        assert [extent async for extent in follower] == [Extent(3, 2)]
        assert not follower.caught_up


async def test_known_head_is_returned_before_anything_is_published(spool: Spool) -> None:
    async def head() -> bytes:
        return b"id,name\n"

    with Follower(spool, 3, head=head) as follower:
        assert await follower.early() == b"name\n"
        assert follower.caught_up
        spool.open()
        await published(spool, FIRST)
        assert await soon(anext(follower)) == Extent(len(b"id,name\n"), len(FIRST) - len(b"id,name\n"))


async def test_callback_before_the_first_extent_is_awaited_once(spool: Spool) -> None:
    calls: list[int] = []

    async def before_first() -> None:
        calls.append(spool.frontier)

    spool.open()
    with Follower(spool, before_first=before_first) as follower:
        for page in CHUNKS[:2]:
            await published(spool, page)
            await soon(anext(follower))
    assert calls == [len(CHUNKS[0])]


async def test_follower_has_caught_up_when_it_has_every_published_byte(spool: Spool) -> None:
    spool.open()
    with Follower(spool) as follower:
        assert follower.caught_up
        await published(spool, FIRST)
        assert not follower.caught_up
        await soon(anext(follower))
        assert follower.caught_up


async def test_follower_without_a_head_has_no_early_bytes(spool: Spool) -> None:
    with Follower(spool) as follower:
        assert await follower.early() == b""


async def test_file_of_a_follower_has_no_buffer(spool: Spool) -> None:
    """The bytes go from the page cache to the socket."""
    spool.open()
    with Follower(spool) as follower:
        assert type(follower.file) is FileIO


async def test_file_that_cannot_be_opened_truncates_a_download(spool: Spool) -> None:
    spool.path.mkdir()
    with Follower(spool) as follower, pytest.raises(TruncatedError, match="cannot be opened: Is a directory"):
        follower.file  # noqa: B018
