"""The order of block ranges and the bytes they hold, without a database, at any speed of their readers."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.source.cursors.block_ranges import FIRST_BLOCKS, MAX_BLOCKS, BlockRange, RangeSplitter, ReorderBuffer
from streamer.source.query.plan import Heap
from streamer.source.query.query import Query

QUERY = Query(columns=('"id"',), relation='"public"."users"', where="")
LIMIT = 64  # bytes


@dataclass(frozen=True)
class Chunk:
    """One chunk of a range, and the iterations of the event loop before it."""

    data: bytes
    iterations: int


chunks = st.builds(Chunk, st.binary(min_size=1, max_size=40), st.integers(0, 4))
ranges_of_chunks = st.lists(st.lists(chunks, max_size=5), max_size=12)


def block_range(number: int) -> BlockRange:
    return BlockRange(number, sql="", blocks=1)


@settings(max_examples=300, deadline=None)
@given(contents=ranges_of_chunks, workers=st.integers(1, 5), sink_iterations=st.integers(0, 3))
def test_any_workers_with_any_delays_give_the_bytes_in_order_and_hold_no_more_than_the_limit(
    contents: list[list[Chunk]], workers: int, sink_iterations: int
) -> None:
    written, most_held = asyncio.run(_run(contents, workers, sink_iterations))
    assert written == b"".join(chunk.data for content in contents for chunk in content)
    assert most_held <= LIMIT


async def _run(contents: Sequence[Sequence[Chunk]], workers: int, sink_iterations: int) -> tuple[bytes, int]:
    written = bytearray()
    most_held = 0

    async def sink(chunk: bytes | bytearray, rows: int) -> None:
        nonlocal most_held
        most_held = max(most_held, buffer.held)
        await _let_others(sink_iterations)
        written.extend(chunk)

    async def work() -> None:
        nonlocal most_held
        for number, content in todo:
            current = block_range(number)
            buffer.begin(current)
            for chunk in content:
                await _let_others(chunk.iterations)
                await buffer.put(current, chunk.data, 1)
                most_held = max(most_held, buffer.held)
            await buffer.finish(current)

    buffer = ReorderBuffer(sink, LIMIT)
    todo = iter(enumerate(contents))
    async with asyncio.timeout(10):
        await asyncio.gather(*(work() for _ in range(workers)))
    assert buffer.rows == sum(map(len, contents))
    assert buffer.held == 0
    return bytes(written), most_held


async def _let_others(iterations: int) -> None:
    for _ in range(iterations):
        await asyncio.sleep(0)


async def test_a_later_range_waits_at_the_limit_and_the_first_does_not() -> None:
    written: list[bytes] = []

    async def sink(chunk: bytes | bytearray, rows: int) -> None:
        written.append(bytes(chunk))

    buffer = ReorderBuffer(sink, LIMIT)
    first, later = block_range(0), block_range(1)
    buffer.begin(first)
    buffer.begin(later)
    await buffer.put(later, b"e" * LIMIT, 1)
    waiting = asyncio.create_task(buffer.put(later, b"f", 1))
    await _let_others(5)
    assert not waiting.done()
    await buffer.put(first, b"h" * 10 * LIMIT, 1)
    assert not waiting.done()
    await buffer.finish(first)
    await waiting
    assert written == [b"h" * 10 * LIMIT, b"e" * LIMIT, b"f"]


async def test_nothing_is_written_after_the_sink_has_failed() -> None:
    written: list[bytes] = []

    async def sink(chunk: bytes | bytearray, rows: int) -> None:
        written.append(bytes(chunk))
        if chunk == b"first":
            raise OSError

    buffer = ReorderBuffer(sink, LIMIT)
    first, later = block_range(0), block_range(1)
    buffer.begin(first)
    buffer.begin(later)
    await buffer.put(later, b"first", 1)
    await buffer.put(later, b"second", 1)
    with pytest.raises(OSError):  # noqa: PT011 - it has no message
        await buffer.finish(first)
    with suppress(OSError):
        await buffer.put(later, b"third", 1)
    assert written == [b"first"]


def heap(name: str, blocks: int) -> Heap:
    return Heap("public", name, 16384, blocks)


@given(st.lists(st.integers(0, 5000), max_size=6), st.lists(st.integers(0, 1_000_000), max_size=50))
def test_ranges_cover_every_block_of_every_heap_once_and_in_order(sizes: list[int], given_bytes: list[int]) -> None:
    splitter = RangeSplitter(
        QUERY, [heap(f"h{number}", size) for number, size in enumerate(sizes)], target=100_000, planned=0
    )
    sizes_read = iter(given_bytes)
    seen: list[BlockRange] = []
    while found := splitter.take():
        assert 1 <= found.blocks <= MAX_BLOCKS
        assert found.number == len(seen)
        seen.append(found)
        found.received = next(sizes_read, 0)
        splitter.adapt(found)
    assert sum(found.blocks for found in seen) == sum(sizes)
    ranges = [found.sql.rpartition("FROM ONLY ")[2] for found in seen]
    assert len(set(ranges)) == len(ranges)


def test_wide_rows_make_small_ranges_and_few_rows_make_large_ones() -> None:
    splitter = RangeSplitter(QUERY, [heap("heap", 1_000_000)], target=1_000_000, planned=0)
    first = splitter.take()
    assert first is not None
    assert first.blocks == FIRST_BLOCKS
    first.received = 500_000_000
    splitter.adapt(first)
    wide = splitter.take()
    assert wide is not None
    assert wide.blocks == 1
    for _ in range(20):
        splitter.adapt(wide)
        following = splitter.take()
        assert following is not None
        assert following.blocks <= 2 * wide.blocks
        wide = following
    assert wide.blocks == MAX_BLOCKS


def test_a_range_reads_one_heap_alone_and_keeps_the_condition() -> None:
    query = Query(columns=('"id"', '"na""me"'), relation='"public"."users"', where=""" WHERE "id" >= '5'""")
    assert query.sql_of_blocks('"public"."part 1"', 128, 256) == (
        """SELECT "id", "na""me" FROM ONLY "public"."part 1" AS "streamer: row" WHERE "id" >= '5' """
        """AND ctid >= '(128,0)'::pg_catalog.tid AND ctid < '(256,0)'::pg_catalog.tid"""
    )


def test_the_estimate_begins_as_the_planners_and_ends_as_the_rows_read() -> None:
    splitter = RangeSplitter(QUERY, [heap("heap", 100 * FIRST_BLOCKS)], target=1, planned=1_000)
    assert splitter.expected == 1_000
    found = splitter.take()
    assert found is not None
    found.rows, found.received = 30, 1_000_000
    splitter.adapt(found)
    assert 1_000 < splitter.expected < 3_000
    read = 30
    while found := splitter.take():
        found.rows = 30 * found.blocks // FIRST_BLOCKS
        read += found.rows
        splitter.adapt(found)
    assert splitter.expected == read
    assert RangeSplitter(QUERY, [heap("empty", 0)], target=1, planned=7).expected == 0
