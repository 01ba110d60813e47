"""A spool and its followers against a plain `bytes`: no sequence of operations lets a follower read anything else.

The event loop runs only inside a rule, so followers start, read and fail at every point between two batches.
"""

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamer.spool.spool import Sealed, Spool
from streamer.spool.writer import Volume
from tests.unit.spools import PATIENCE, Reader, tick

LARGE = 1000  # bytes
REASON = "the database went away"

T = TypeVar("T")

pages = st.one_of(
    st.binary(max_size=40),
    st.builds(bytearray, st.binary(min_size=1, max_size=40)),
    st.builds(lambda piece, times: piece * times, st.binary(min_size=1, max_size=40), st.integers(1, 60_000)),
)


class SpoolAgainstBytes(RuleBasedStateMachine):
    readers = Bundle("readers")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="spool-"))
        self.executor = ThreadPoolExecutor(1)
        self.runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.oracle = bytearray()
        self.rows_at = {0: 0}  # rows, by the lengths at which whole pages end
        self.following: list[Reader] = []
        self.sealed: Sealed | None = None
        self.failed = False
        self.spool = self.run(self._open())

    async def _open(self) -> Spool:
        spool = Spool(self.folder / "export.csv", Volume(self.executor, self.executor))
        spool.open()
        return spool

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @property
    def ended(self) -> bool:
        return self.failed or self.sealed is not None

    @initialize(target=readers)
    def first_reader(self) -> Reader:
        return self.add_reader()

    @rule(target=readers)
    def another_reader(self) -> Reader:
        return self.add_reader()

    def add_reader(self) -> Reader:
        self.following.append(Reader(self.spool))
        return self.following[-1]

    @precondition(lambda self: not self.ended)
    @rule(page=pages, rows=st.integers(0, 5))
    def append(self, page: bytes | bytearray, rows: int) -> None:
        rows = rows if page else 0
        rows = rows if len(page) < LARGE else max(rows, 1)  # a header is small
        total = self.rows_at[len(self.oracle)] + rows
        self.oracle += page
        self.rows_at[len(self.oracle)] = total
        self.run(asyncio.wait_for(self.spool.append(page, rows), PATIENCE))

    @rule(ticks=st.integers(1, 5))
    def let_the_loop_run(self, ticks: int) -> None:
        self.run(tick(ticks))

    @precondition(lambda self: not self.ended)
    @rule()
    def let_the_disk_catch_up(self) -> None:
        """Up to the last row: a page without rows may wait for the next one."""
        rows = self.rows_at[len(self.oracle)]
        last_row = min(length for length in self.rows_at if self.rows_at[length] == rows)
        self.run(asyncio.wait_for(self.spool.moved_beyond(last_row - 1), PATIENCE))
        assert self.spool.frontier >= last_row

    @rule(reader=readers, ticks=st.integers(0, 5))
    def read(self, reader: Reader, ticks: int) -> None:
        self.run(reader.step(ticks))

    @precondition(lambda self: not self.ended)
    @rule()
    def seal(self) -> None:
        self.sealed = self.run(asyncio.wait_for(self.spool.finish(), PATIENCE))
        self.spool.seal()

    @precondition(lambda self: not self.ended)
    @rule(discard=st.booleans())
    def fail(self, discard: bool) -> None:
        self.failed = True
        self.spool.fail(REASON)
        if discard:
            self.run(asyncio.wait_for(self.spool.discard(), PATIENCE))
            assert not self.spool.path.exists()

    @precondition(lambda self: self.ended)
    @rule(reader=readers)
    def drain(self, reader: Reader) -> None:
        self.run(reader.drain())

    @invariant()
    def frontier_is_at_the_end_of_a_page(self) -> None:
        assert self.spool.rows == self.rows_at[self.spool.frontier]

    @invariant()
    def every_reader_has_a_prefix_of_the_oracle(self) -> None:
        for reader in self.following:
            assert len(reader.read) <= self.spool.frontier
            assert self.oracle.startswith(reader.read)

    @invariant()
    def every_reader_ends_as_the_spool_did(self) -> None:
        for reader in self.following:
            if self.failed:
                assert reader.end in (None, REASON)
            elif self.sealed is None:
                assert reader.end is None
            else:
                assert reader.end in (None, "drained")
                assert reader.end is None or reader.read == self.oracle

    @invariant()
    def sealed_spool_is_the_oracle(self) -> None:
        if self.sealed is not None:
            rows = self.rows_at[len(self.oracle)]
            assert self.sealed == Sealed(len(self.oracle), rows, hashlib.sha256(self.oracle).digest())

    def teardown(self) -> None:
        """Every run ends, and every reader ends as the spool did."""
        try:
            if not self.ended:
                self.seal()
            for reader in self.following:
                self.run(reader.drain())
                assert reader.end is not None
            self.every_reader_has_a_prefix_of_the_oracle()
            self.every_reader_ends_as_the_spool_did()
            self.sealed_spool_is_the_oracle()
            if self.sealed is not None:
                assert self.spool.path.read_bytes() == self.oracle
        finally:
            self._clean_up()

    def _clean_up(self) -> None:
        for reader in self.following:
            self.run(reader.leave())
        self.spool.fail(REASON)
        self.run(self.spool.discard())
        self.runner.close()
        self.executor.shutdown()
        shutil.rmtree(self.folder)


TestSpoolAgainstBytes = SpoolAgainstBytes.TestCase
TestSpoolAgainstBytes.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)
