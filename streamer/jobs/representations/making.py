"""The compressed representations that this process makes: begun by the first request, followed by all.

A representation is an append-only file like an export, and has the same rules: once a byte of it was served, its bytes
never change, and its row is written before its followers see the end. It is made by one process at a time, which holds
a lease on the row.

It can be made again: after its file was evicted, after a failure, and after the death of its server. `sha256` in the
row, or what a dead server has left of the file, proves that the bytes are the same, before any of them is sent. If they
are not, because another version of the coder makes others, a new generation begins, which has another entity tag.

A representation fails alone: the export goes on, and so do its other representations.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from streamer.coding import COMPRESSED
from streamer.errors import ClientError, ExportFailure, Unavailable
from streamer.formats.coders import coder, coder_name
from streamer.formats.compression import Compression, pack_offsets, unpack_offsets
from streamer.jobs.active import ActiveExport
from streamer.jobs.completed import CompletedCache, CompletedExport
from streamer.jobs.representation_store import RepresentationStore
from streamer.jobs.representations.active import NOTHING, ActiveRepresentation, ServedBytes
from streamer.jobs.representations.compressor import CompletedIdentity, Compressor, Identity, OtherBytesError, Proof
from streamer.jobs.retention import Retention
from streamer.jobs.tasks import Tasks, all_ended
from streamer.jobs.times import JobTimes
from streamer.model import EVERYBODY, Representation, State, Viewer, may_see
from streamer.postgres.failures import with_causes
from streamer.protocol.disposition import ContentDescription
from streamer.spool.directory import SpoolDirectory
from streamer.spool.follower import Follower, TruncatedError
from streamer.spool.names import SpoolName
from streamer.spool.writer import WriteLimits

log = logging.getLogger(__name__)

WRITE_LIMITS = WriteLimits(max_gathered=128 * 1024, batch_size=64 * 1024)
STOPPED = "the server was stopped before the compressed file was finished"
STOPPING = "the server is stopping"
MADE_ELSEWHERE = "the compressed file is being made by another server"
TOO_MANY = "too many compressed files are being made"


class AlreadyMadeError(Exception):
    """The representation is complete, and its file is in this folder."""


@dataclass(frozen=True, slots=True)
class _Source:
    """The export that is compressed. `open` begins to read it."""

    content: ContentDescription
    principal: str  # its name
    open: Callable[[], AbstractContextManager[Identity]]


class Representations:
    """At most `capacity` are made at once, each in one thread of `executor`."""

    def __init__(
        self,
        store: RepresentationStore,
        directory: SpoolDirectory,
        completed: CompletedCache,
        retention: Retention,
        *,
        executor: Executor,
        capacity: int,
        times: JobTimes,
    ) -> None:
        self._store = store
        self._directory = directory
        self._completed = completed
        self._retention = retention
        self._executor = executor
        self._renewal = times.renewal.total_seconds()
        self._places = capacity
        self._stopping = False
        self._changed = asyncio.Condition()  # a place is free, or one has begun
        self._tasks = Tasks()
        self._beginning: dict[SpoolName, asyncio.Task[ActiveRepresentation]] = {}
        self._active: dict[SpoolName, ActiveRepresentation] = {}
        self._making: dict[asyncio.Task[None], ActiveRepresentation] = {}

    @property
    def has_place(self) -> bool:
        """Whether another one can be made now."""
        return self._places > 0

    def active(self, name: SpoolName, viewer: Viewer) -> ActiveRepresentation | None:
        """Returns the representation if this process makes it, of an export that the viewer may see."""
        found = self._active.get(name)
        return found if found and may_see(viewer, found.principal) and not found.spool.ended else None

    async def begin(
        self, name: SpoolName, live: ActiveExport | None, *, patience: float = 0.0, is_lost: bool = False
    ) -> ActiveRepresentation:
        """Returns the representation that this process makes, from now on if it did not yet.

        `live` is the export if it is unfinished; one that has no snapshot yet takes a place when it has.
        `is_lost` says that the file is not there, whatever its row says.
        Raises Unavailable if too many are made for `patience` seconds, or if another server makes it;
        InsufficientStorage; AlreadyMadeError; and as `CompletedCache.acquire` if the export has no file.
        """
        needs_place = live is None or live.has_begun
        while not self._may_begin(name, needs_place=needs_place):
            await self._wait_change(name, patience)
        if found := self.active(name, EVERYBODY):
            return found
        if name not in self._beginning:
            self._places -= needs_place
            work = self._begin(name, live, has_place=needs_place, is_lost=is_lost)
            self._beginning[name] = self._tasks.spawn(work, f"{name.coding} of {name.export_id}")
        return await asyncio.shield(self._beginning[name])

    async def release_of(self, dead: Sequence[UUID]) -> None:
        """Lets any server make again what these dead servers were making. Raises Unavailable."""
        await self._store.expire_leases(dead)

    def forget(self, export_id: UUID) -> None:
        """The files of the export were removed: downloads that have begun go on to the end, and no others begin."""
        for coding in COMPRESSED:
            if active := self._active.pop(SpoolName(export_id, coding), None):
                active.removed = True

    async def stop(self) -> None:
        """Breaks all followers, and returns when nothing is made any more: another process can go on."""
        self._stopping = True
        making = dict(self._making)
        for task, active in making.items():
            if not active.failing:
                task.cancel()
        await all_ended(making)
        for active in making.values():
            active.spool.fail(STOPPED)  # a task that had not begun has not done so

    def _may_begin(self, name: SpoolName, *, needs_place: bool) -> bool:
        has_place = self._places > 0 or not needs_place
        return has_place or name in self._beginning or self.active(name, EVERYBODY) is not None

    async def _wait_change(self, name: SpoolName, patience: float) -> None:
        """Raises Unavailable."""
        try:
            async with asyncio.timeout(patience), self._changed:
                await self._changed.wait_for(lambda: self._may_begin(name, needs_place=True))
        except TimeoutError as error:
            raise Unavailable(TOO_MANY) from error

    async def _begin(
        self, name: SpoolName, live: ActiveExport | None, *, has_place: bool, is_lost: bool
    ) -> ActiveRepresentation:
        """Gives the place back if it fails; otherwise that is for the making."""
        try:
            self._ensure_running()
            with ExitStack() as stack:
                await self._retention.make_room_for_representation()
                source = await self._source(name.export_id, live, stack)
                active = await self._claim(name, live, source, is_lost=is_lost)
                active.has_place = has_place
                self._start(active, source, stack.pop_all())
        except BaseException:
            await self._give_back(place=has_place)
            raise
        else:
            return active
        finally:
            del self._beginning[name]

    def _ensure_running(self) -> None:
        """Raises Unavailable."""
        if self._stopping:
            raise Unavailable(STOPPING)

    async def _claim(
        self, name: SpoolName, live: ActiveExport | None, source: _Source, *, is_lost: bool
    ) -> ActiveRepresentation:
        """Takes the row. Raises Unavailable if another server has it."""
        row = await self._store.begin(name, coder_name(name.coding), self._directory.id, is_lost=is_lost)
        if row is None:
            raise await self._refusal(name)
        self._ensure_running()  # otherwise the row is left to the next process
        spool = self._directory.create(
            name.export_id, self._retention.keep_room_for_representation, name.coding, limits=WRITE_LIMITS
        )
        reading = partial(self._completed.reading, name.export_id)
        active = ActiveRepresentation(
            row, spool, source.content, principal=source.principal, live=live, reading=reading
        )
        if row.is_new or _served_nothing(row):
            active.proven.set()
        return active

    async def _refusal(self, name: SpoolName) -> Exception:
        found = await self._store.get(name)
        if found and found.state == State.COMPLETED and found.folder == self._directory.id and not found.removed_at:
            return AlreadyMadeError(f"the {name.coding} of export {name.export_id} is complete")
        return Unavailable(MADE_ELSEWHERE)

    async def _source(self, export_id: UUID, live: ActiveExport | None, stack: ExitStack) -> _Source:
        """Returns the export, whose file stays until the stack is closed."""
        if live is not None:
            assert live.content is not None, "a client knows its id, so there is a row"
            stack.enter_context(self._completed.reading(export_id))
            return _Source(live.content, live.principal, partial(_follow, live))
        export = stack.enter_context(await self._completed.acquire(export_id, EVERYBODY))
        await self._completed.ensure_verified(export)
        return _Source(export.content, export.export.principal, partial(_read, export))

    def _start(self, active: ActiveRepresentation, source: _Source, resources: ExitStack) -> None:
        self._active[active.name] = active
        making = asyncio.create_task(self._make(active, source), name=f"{active.coding} of {active.id}")
        self._making[making] = active
        making.add_done_callback(lambda _: self._tasks.spawn(self._made(active, making, resources), "end of a making"))

    async def _made(self, active: ActiveRepresentation, making: "asyncio.Task[None]", resources: ExitStack) -> None:
        resources.close()
        del self._making[making]
        if self._active.get(active.name) is active:
            del self._active[active.name]
        await self._give_back(place=active.has_place)

    async def _give_back(self, *, place: bool) -> None:
        self._places += place
        async with self._changed:
            self._changed.notify_all()

    async def _take_place(self, active: ActiveRepresentation) -> None:
        """Waits until the export is read, and for a place: one in the queue keeps no other from being compressed."""
        if active.has_place or active.live is None:
            return
        await active.live.begun()
        async with self._changed:
            await self._changed.wait_for(lambda: self._places > 0)
        self._places -= 1
        active.has_place = True

    async def _make(self, active: ActiveRepresentation, source: _Source) -> None:
        """Makes the representation, or fails it."""
        try:
            async with self._leased(active):
                await self._take_place(active)
                await self._fill(active, source)
                await self._complete(active)
        except asyncio.CancelledError:
            await self._fail(active, STOPPED)
            raise
        except (ExportFailure, TruncatedError, ClientError) as error:
            log.warning("the %s of export %s failed: %s", active.coding, active.id, with_causes(error))
            await self._fail(active, str(error))
        except Exception:
            log.exception("the %s of export %s failed", active.coding, active.id)
            await self._fail(active, "an internal error, which the server's log describes")

    async def _fill(self, active: ActiveRepresentation, source: _Source) -> None:
        """Writes the file: the bytes that were served before if there are such, or else the next generation."""
        served = await self._served_before(active)
        if served is not None:
            try:
                return await self._compress(active, source, served)
            except (OtherBytesError, ValueError):  # a ValueError: the flushes do not fit the export
                await active.spool.rewind()
        log.warning("the %s of export %s has other bytes than before: a new generation", active.coding, active.id)
        row = await self._store.restart(active.name, coder_name(active.coding))
        if row is None:
            raise ExportFailure(MADE_ELSEWHERE)
        active.row = row
        return await self._compress(active, source, NOTHING)

    async def _served_before(self, active: ActiveRepresentation) -> ServedBytes | None:
        """Returns what is known of the bytes that clients may have; None if they cannot be made again."""
        row = active.row
        if row.is_new:
            return NOTHING
        if row.coder != coder_name(active.coding):
            return None
        if row.sha256 is None:
            return await self._left_by_dead_server(active)
        try:
            return ServedBytes(row.length, row.sha256, unpack_offsets(row.flushes or b""))
        except ValueError:
            return None

    async def _left_by_dead_server(self, active: ActiveRepresentation) -> ServedBytes:
        """Returns what is in the file of a run that could not write to the table, and notes it there.

        Without a file nothing was served.
        """
        flushes = await self._store.flushes(active.row)
        (size,) = await self._directory.sizes([active.name])
        digest = NOTHING.sha256 if size is None else await self._directory.sha256(*active.name)
        left = ServedBytes(size or 0, digest, flushes)
        if not await self._store.note_served(active.row, left.length, left.sha256, pack_offsets(flushes)):
            raise ExportFailure(MADE_ELSEWHERE)
        return left

    async def _compress(self, active: ActiveRepresentation, source: _Source, served: ServedBytes) -> None:
        active.served_before = served
        active.compression = Compression(coder(active.coding), served.flushes)
        active.spool.open()
        compressor = Compressor(
            active.compression,
            active.spool,
            self._executor,
            proof=Proof(served),
            on_proven=active.proven.set,
            note_flush=partial(self._note_flush, active),
        )
        with source.open() as identity:
            await compressor.run(identity)

    async def _note_flush(self, active: ActiveRepresentation, position: int) -> bool:
        """Returns whether it was noted: rows that cannot be flushed wait for those that follow."""
        try:
            return await self._store.note_flush(active.row, position)
        except Unavailable as error:
            log.warning("a flush of the %s of export %s could not be noted: %s", active.coding, active.id, error)
            return False

    async def _complete(self, active: ActiveRepresentation) -> None:
        """All bytes on disk, then the row, then the followers. Without an answer the row decides about the file."""
        sealed = await active.spool.finish(durable=not active.removed)
        if active.removed:
            return active.spool.seal()
        active.spool.kept = True
        row = await self._store.complete(active.row, sealed.length, sealed.sha256, pack_offsets(active.served.flushes))
        if row is None:
            active.spool.kept = False
            raise ExportFailure(MADE_ELSEWHERE)
        active.row = row
        self._completed.mark_verified(*active.name)
        active.spool.seal()
        return log.info("the %s of export %s is complete: %d bytes", active.coding, active.id, sealed.length)

    async def _fail(self, active: ActiveRepresentation, reason: str) -> None:
        """Breaks the followers. If what was served could not be noted, the file stays: it shows what it was."""
        active.failing = True
        await active.spool.stop_writing()
        if not await self._noted(active, reason) and not active.export_has_failed:
            active.spool.kept = True
        active.spool.fail(reason)
        await active.spool.discard()

    async def _noted(self, active: ActiveRepresentation, reason: str) -> bool:
        """Notes in the table what was served, so that it can be made again. Returns False if it was not changed."""
        if active.compression is None:
            return False
        served = active.served
        try:
            return await self._store.fail(
                active.row, served.length, served.sha256, pack_offsets(served.flushes), reason
            )
        except Unavailable as error:
            log.warning("the failure of a representation could not be recorded: %s", with_causes(error))
            return False

    @asynccontextmanager
    async def _leased(self, active: ActiveRepresentation) -> AsyncIterator[None]:
        """Renews the lease while the context is open."""
        renewing = asyncio.create_task(self._renew(active), name=f"lease of the {active.coding} of {active.id}")
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.wait({renewing})

    async def _renew(self, active: ActiveRepresentation) -> None:
        while True:
            await asyncio.sleep(self._renewal)
            try:
                await self._store.renew_lease(active.row)
            except Unavailable as error:
                log.warning("the lease of a representation could not be renewed: %s", with_causes(error))


def _served_nothing(row: Representation) -> bool:
    """Whether an earlier making, which this one repeats, has ended before its first byte."""
    return row.sha256 == NOTHING.sha256 and row.length == 0 and row.coder == coder_name(row.coding)


def _follow(live: ActiveExport) -> Follower:
    """The export is marked as served before its first row is compressed."""
    return Follower(live.spool, before_first=live.ensure_served, head=live.early)


def _read(export: CompletedExport) -> AbstractContextManager[Identity]:
    return nullcontext(CompletedIdentity(export))
