"""The order of pages and the memory they hold, without a database: whoever is fast or slow, the bytes are the same."""

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
    """What one read of a page gives, and how often others get their turn before it."""

    data: bytes
    turns: int


chunks = st.builds(Chunk, st.binary(min_size=1, max_size=40), st.integers(0, 4))
pages_of_chunks = st.lists(st.lists(chunks, max_size=5), max_size=12)


def page(number: int) -> BlockRange:
    return BlockRange(number, sql="", blocks=1)


@settings(max_examples=300, deadline=None)
@given(contents=pages_of_chunks, workers=st.integers(1, 5), sink_turns=st.integers(0, 3))
def test_any_workers_with_any_delays_give_the_bytes_in_order_and_hold_no_more_than_the_limit(
    contents: list[list[Chunk]], workers: int, sink_turns: int
) -> None:
    written, most_held = asyncio.run(_run(contents, workers, sink_turns))
    assert written == b"".join(chunk.data for content in contents for chunk in content)
    assert most_held <= LIMIT


async def _run(contents: Sequence[Sequence[Chunk]], workers: int, sink_turns: int) -> tuple[bytes, int]:
    written = bytearray()
    most_held = 0

    async def sink(chunk: bytes | bytearray, rows: int) -> None:
        nonlocal most_held
        most_held = max(most_held, in_order.held)
        await _let_others(sink_turns)
        written.extend(chunk)

    async def work() -> None:
        nonlocal most_held
        for number, content in todo:
            current = page(number)
            in_order.begin(current)
            for chunk in content:
                await _let_others(chunk.turns)
                await in_order.put(current, chunk.data, 1)
                most_held = max(most_held, in_order.held)
            await in_order.finish(current)

    in_order = ReorderBuffer(sink, LIMIT)
    todo = iter(enumerate(contents))
    async with asyncio.timeout(10):
        await asyncio.gather(*(work() for _ in range(workers)))
    assert in_order.rows == sum(map(len, contents))
    assert in_order.held == 0
    return bytes(written), most_held


async def _let_others(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def test_an_early_page_that_is_full_waits_and_the_head_does_not() -> None:
    written: list[bytes] = []

    async def sink(chunk: bytes | bytearray, rows: int) -> None:
        written.append(bytes(chunk))

    in_order = ReorderBuffer(sink, LIMIT)
    head, early = page(0), page(1)
    in_order.begin(head)
    in_order.begin(early)
    await in_order.put(early, b"e" * LIMIT, 1)
    waiting = asyncio.create_task(in_order.put(early, b"f", 1))
    await _let_others(5)
    assert not waiting.done()
    await in_order.put(head, b"h" * 10 * LIMIT, 1)
    assert not waiting.done()
    await in_order.finish(head)
    await waiting
    assert written == [b"h" * 10 * LIMIT, b"e" * LIMIT, b"f"]


async def test_nothing_more_is_written_when_the_sink_has_failed() -> None:
    written: list[bytes] = []

    async def sink(chunk: bytes | bytearray, rows: int) -> None:
        written.append(bytes(chunk))
        if chunk == b"first":
            raise OSError

    in_order = ReorderBuffer(sink, LIMIT)
    head, early = page(0), page(1)
    in_order.begin(head)
    in_order.begin(early)
    await in_order.put(early, b"first", 1)
    await in_order.put(early, b"second", 1)
    with pytest.raises(OSError):  # noqa: PT011 - it has no message
        await in_order.finish(head)
    with suppress(OSError):
        await in_order.put(early, b"third", 1)
    assert written == [b"first"]


def heap(name: str, blocks: int) -> Heap:
    return Heap("public", name, 16384, blocks)


@given(st.lists(st.integers(0, 5000), max_size=6), st.lists(st.integers(0, 1_000_000), max_size=50))
def test_pages_cover_every_block_of_every_heap_once_and_in_order(sizes: list[int], given_bytes: list[int]) -> None:
    plan = RangeSplitter(
        QUERY, [heap(f"h{number}", size) for number, size in enumerate(sizes)], target=100_000, planned=0
    )
    learned = iter(given_bytes)
    seen: list[BlockRange] = []
    while found := plan.take():
        assert 1 <= found.blocks <= MAX_BLOCKS
        assert found.number == len(seen)
        seen.append(found)
        found.taken = next(learned, 0)
        plan.learn(found)
    assert sum(found.blocks for found in seen) == sum(sizes)
    ranges = [found.sql.rpartition("FROM ONLY ")[2] for found in seen]
    assert len(set(ranges)) == len(ranges)


def test_wide_rows_make_small_pages_and_few_rows_make_large_ones() -> None:
    plan = RangeSplitter(QUERY, [heap("heap", 1_000_000)], target=1_000_000, planned=0)
    first = plan.take()
    assert first is not None
    assert first.blocks == FIRST_BLOCKS
    first.taken = 500_000_000
    plan.learn(first)
    wide = plan.take()
    assert wide is not None
    assert wide.blocks == 1
    for _ in range(20):
        plan.learn(wide)
        following = plan.take()
        assert following is not None
        assert following.blocks <= 2 * wide.blocks
        wide = following
    assert wide.blocks == MAX_BLOCKS


def test_a_page_reads_one_heap_alone_and_keeps_the_condition() -> None:
    query = Query(columns=('"id"', '"na""me"'), relation='"public"."users"', where=""" WHERE "id" >= '5'""")
    assert query.sql_of_blocks('"public"."part 1"', 128, 256) == (
        """SELECT "id", "na""me" FROM ONLY "public"."part 1" AS "streamer: row" WHERE "id" >= '5' """
        """AND ctid >= '(128,0)'::pg_catalog.tid AND ctid < '(256,0)'::pg_catalog.tid"""
    )


def test_the_estimate_begins_as_the_planners_and_ends_as_what_was_read() -> None:
    plan = RangeSplitter(QUERY, [heap("heap", 100 * FIRST_BLOCKS)], target=1, planned=1_000)
    assert plan.expected == 1_000
    found = plan.take()
    assert found is not None
    found.rows, found.taken = 30, 1_000_000
    plan.learn(found)
    assert 1_000 < plan.expected < 3_000
    read = 30
    while found := plan.take():
        found.rows = 30 * found.blocks // FIRST_BLOCKS
        read += found.rows
        plan.learn(found)
    assert plan.expected == read
    assert RangeSplitter(QUERY, [heap("empty", 0)], target=1, planned=7).expected == 0
