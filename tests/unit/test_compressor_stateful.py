"""An export, its compressed file and the followers of both, against a plain `bytes`.

No sequence of pages, failures, interruptions and ends lets a follower of the compressed file read anything else than a
beginning of one file, which decodes to a beginning of the export, and none ends well without the whole. A making that
was interrupted is made again, and may be followed once it has made the bytes that were served.

The event loop runs only inside a rule, so everything may happen at every point between two batches.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamer.coding import COMPRESSED, Coding
from streamer.formats.coders import coder
from streamer.formats.compression import Compression
from streamer.jobs.representations.active import NOTHING, ServedBytes
from streamer.jobs.representations.compressor import Compressor, Proof
from streamer.spool.follower import Follower, TruncatedError
from streamer.spool.spool import Spool
from streamer.spool.writer import Volume
from tests.codings import Decoding, decoded
from tests.unit.spools import PATIENCE, Reader, tick

REASON = "the database went away"
INTERRUPTED = "the server was stopped"

T = TypeVar("T")

pages = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.builds(lambda piece, times: piece * times, st.binary(min_size=1, max_size=40), st.integers(1, 20_000)),
)


class Making:
    """One run of the compressor, as a representation has it."""

    def __init__(self, coding: Coding, spool: Spool, executor: ThreadPoolExecutor, served: ServedBytes) -> None:
        self.spool = spool
        self.proven = asyncio.Event()
        self._served_before = served
        self._compression = Compression(coder(coding), served.flushes)
        self._noted: set[int] = set()
        self._compressor = Compressor(
            self._compression,
            spool,
            executor,
            proof=Proof(served),
            on_proven=self.proven.set,
            note_flush=self._note_flush,
        )
        self._running: asyncio.Task[None] | None = None

    async def _note_flush(self, position: int) -> bool:
        self._noted.add(position)
        return True

    @property
    def served(self) -> ServedBytes:
        """What clients may have, once the file is no longer written."""
        if not self.proven.is_set():
            return self._served_before
        return ServedBytes(*self.spool.written, self._compression.flushes)

    def start(self, export: Spool) -> None:
        self.spool.open()
        self._running = asyncio.create_task(self._run(export))

    async def settled(self) -> None:
        """Returns when a client may follow, as the requests of clients wait for it."""
        proven, ended = asyncio.create_task(self.proven.wait()), asyncio.create_task(self.spool.end())
        assert self._running is not None
        waited = {proven, ended, self._running}
        done, _ = await asyncio.wait(waited, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        assert done
        if self._running in done:
            self._running.result()
        proven.cancel()
        ended.cancel()

    async def interrupt(self) -> None:
        assert self._running is not None
        self._running.cancel()
        await asyncio.wait({self._running})
        await self.spool.stop_writing()

    async def end(self) -> None:
        assert self._running is not None
        await asyncio.wait_for(asyncio.shield(self._running), PATIENCE)

    async def _run(self, export: Spool) -> None:
        try:
            with Follower(export) as identity:
                await self._compressor.run(identity)
            await self.spool.finish()
            self.spool.seal()
        except TruncatedError as error:
            self.spool.fail(str(error))


class CodedReader:
    """A follower of the compressed file, and what it can decode."""

    def __init__(self, spool: Spool, coding: Coding) -> None:
        self.reader = Reader(spool)
        self.decoding = Decoding(coding)
        self._taken = 0

    @property
    def read(self) -> bytearray:
        return self.reader.read

    def decode(self) -> None:
        self.decoding.add(bytes(self.read[self._taken :]))
        self._taken = len(self.read)


class CompressedAgainstBytes(RuleBasedStateMachine):
    readers = Bundle("readers")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="compressed-"))
        self.executor = ThreadPoolExecutor(2)
        self.runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.oracle = bytearray()
        self.following: list[CodedReader] = []
        self.spools: list[Spool] = []
        self.failed = False
        self.sealed = False
        self.longest = b""  # of what any follower has read
        self.export = self.run(self._open_export())

    @initialize(coding=st.sampled_from(COMPRESSED))
    def begin(self, coding: Coding) -> None:
        self.coding = coding
        self.make(NOTHING)

    def make(self, served: ServedBytes) -> None:
        spool = self.run(self._new_spool("export.csv.compressed"))
        self.making = Making(self.coding, spool, self.executor, served)
        self.run(self._start())

    async def _start(self) -> None:
        self.making.start(self.export)

    async def _open_export(self) -> Spool:
        export = await self._new_spool("export.csv")
        export.open()
        return export

    async def _new_spool(self, name: str) -> Spool:
        self.spools.append(Spool(self.folder / name, Volume(self.executor, self.executor)))
        return self.spools[-1]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @property
    def ended(self) -> bool:
        return self.failed or self.sealed

    @rule(target=readers)
    def follow(self) -> CodedReader:
        self.run(self.making.settled())
        self.following.append(CodedReader(self.making.spool, self.coding))
        return self.following[-1]

    @precondition(lambda self: not self.ended)
    @rule(page=pages)
    def append(self, page: bytes) -> None:
        self.oracle += page
        self.run(asyncio.wait_for(self.export.append(page, 1), PATIENCE))

    @rule(ticks=st.integers(1, 10))
    def let_the_loop_run(self, ticks: int) -> None:
        self.run(tick(ticks))

    @precondition(lambda self: not self.ended)
    @rule()
    def let_the_disk_catch_up(self) -> None:
        self.run(asyncio.wait_for(self.export.moved_beyond(len(self.oracle) - 1), PATIENCE))

    @rule(seconds=st.floats(0.001, 0.03))
    def let_the_compressor_work(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(reader=readers, ticks=st.integers(0, 5))
    def read(self, reader: CodedReader, ticks: int) -> None:
        self.run(reader.reader.step(ticks))

    @rule()
    def interrupt(self) -> None:
        """The file is lost, and the bytes that were served are noted, unless the making has ended by itself."""
        self.run(self.making.interrupt())
        if not self.making.spool.ended:
            served = self.making.served
            self.making.spool.fail(INTERRUPTED)
            self.run(self.making.spool.discard())
            self.make(served)

    @precondition(lambda self: not self.ended)
    @rule()
    def seal(self) -> None:
        self.run(asyncio.wait_for(self.export.finish(), PATIENCE))
        self.export.seal()
        self.sealed = True

    @precondition(lambda self: not self.ended)
    @rule()
    def fail(self) -> None:
        self.export.fail(REASON)
        self.failed = True

    @precondition(lambda self: self.ended)
    @rule(reader=readers)
    def drain(self, reader: CodedReader) -> None:
        self.run(self.making.end())
        self.run(reader.reader.drain())

    @invariant()
    def every_follower_has_a_beginning_of_the_same_file(self) -> None:
        self.longest = max((self.longest, *(bytes(reader.read) for reader in self.following)), key=len)
        for reader in self.following:
            assert self.longest.startswith(reader.read)

    @invariant()
    def what_was_read_decodes_to_a_beginning_of_the_export(self) -> None:
        for reader in self.following:
            reader.decode()
            assert self.oracle.startswith(reader.decoding.decoded)

    @invariant()
    def only_the_whole_ends_well(self) -> None:
        for reader in self.following:
            reader.decode()
            whole = reader.decoding.whole and reader.decoding.decoded == self.oracle
            assert reader.reader.end in (None, REASON, INTERRUPTED, "drained")
            assert (reader.reader.end != "drained") or (self.sealed and whole)

    def teardown(self) -> None:
        """Every run ends, and the compressed file as the export did."""
        try:
            if not self.ended:
                self.seal()
            if hasattr(self, "making"):
                self._check_end()
        finally:
            self._clean_up()

    def _check_end(self) -> None:
        self.run(self.making.end())
        for reader in self.following:
            self.run(reader.reader.drain())
        self.every_follower_has_a_beginning_of_the_same_file()
        self.what_was_read_decodes_to_a_beginning_of_the_export()
        self.only_the_whole_ends_well()
        assert self.making.spool.sealed == self.sealed
        if self.sealed:
            whole = self.making.spool.path.read_bytes()
            assert whole.startswith(self.longest)
            assert decoded(self.coding, whole) == self.oracle

    def _clean_up(self) -> None:
        for reader in self.following:
            self.run(reader.reader.leave())
        for spool in self.spools:
            spool.fail(REASON)
            self.run(spool.discard())
        self.runner.close()
        self.executor.shutdown()
        shutil.rmtree(self.folder)


TestCompressedAgainstBytes = CompressedAgainstBytes.TestCase
TestCompressedAgainstBytes.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
