"""How long finished exports stay, and who makes room.

A completed export stays for `ttl`, or for a shorter time of its own. When room is short, because the folder has reached
its limit or the disk its reserve, the least recently used go first. A file that is being downloaded is never removed,
nor is any if all that could be removed would not be enough: then something else fills the disk. Only what lies in the
folder of this server is looked after; other servers of the table may have folders of their own.

The row is told first and the file removed after it: a removal that is interrupted, or that the file system refuses,
leaves a file that no client can ask for. The sweep removes it: at the start, now and then, and before an export is
refused for lack of room. As long as a file cannot be removed, no further export is given up for room.

A row outlives its file by `history_ttl`, so that a client is told what became of its export. A row whose file is still
in the folder stays: without it, the sweep could not know that the file may go. For the same reason the rows of other
folders are left to their servers.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import timedelta
from itertools import islice
from time import monotonic
from typing import TypeVar
from uuid import UUID

from streamer.durations import written_duration
from streamer.errors import ExportFailure, InsufficientStorage, TransientFailure, Unavailable
from streamer.jobs.completed import CompletedCache
from streamer.jobs.store import GoneAt, Store, UsedAt
from streamer.spool.directory import SpoolDirectory
from streamer.spool.space import Shortage

log = logging.getLogger(__name__)

SWEEP_INTERVAL = 60.0  # seconds
SETTLING = 30.0  # seconds without a removal after one that has freed nothing: some file systems free space later
PATIENCE = 10.0  # seconds that a new export may wait for room
BATCH = 200  # exports of which the table is told at once
FULL = "the server has no room for more: SPOOL_MAX_BYTES or SPOOL_DISK_RESERVE is reached"

T = TypeVar("T")


class Retention:
    """`ttl` and `history_ttl` are in seconds."""

    def __init__(
        self, store: Store, directory: SpoolDirectory, sealed: CompletedCache, *, ttl: float, history_ttl: float
    ) -> None:
        self._store = store
        self._directory = directory
        self._sealed = sealed
        self._ttl = timedelta(seconds=ttl)
        self._history_ttl = timedelta(seconds=history_ttl)
        self._making_room = asyncio.Lock()
        self._settled_at = 0.0

    async def run(self) -> None:
        """Removes what has expired, what was left, and what has been gone for long, for ever."""
        while True:
            await _attempt(self.expire, "expired exports could not be removed")
            await _attempt(self.sweep, "files that no client can ask for could not be removed")
            await _attempt(self.forget, "the rows of exports that are long gone could not be deleted")
            await asyncio.sleep(SWEEP_INTERVAL)

    async def expire(self) -> None:
        while expired := await self._store.expired(self._directory.id, self._ttl, self._sealed.being_read, BATCH):
            await self._remove(expired, "has expired")

    async def sweep(self) -> None:
        """Removes the files that no client can ask for."""
        found = await self._directory.spools()
        for batch in _batches(found.items(), BATCH):
            ids, sizes = [found for found, _ in batch], [size for _, size in batch]
            await self._store.locate(self._directory.id, ids)
            garbage = await self._store.garbage(self._directory.id, ids, sizes)
            for export_id in garbage:
                log.info("the file of export %s is removed: no client can ask for it", export_id)
            await self._directory.remove(*(each for each in garbage if not self._directory.is_written(each)))

    async def forget(self) -> None:
        """Deletes the rows, and with them the idempotency keys, of exports whose files went long ago."""
        deleted = 0
        place: GoneAt | None = None
        while found := await self._store.gone(self._directory.id, self._history_ttl, place, BATCH):
            place = found[-1]
            export_ids = [export_id for _, export_id in found]
            sizes = await self._directory.sizes(export_ids)
            fileless = [export_id for export_id, size in zip(export_ids, sizes, strict=True) if size is None]
            if fileless:
                deleted += await self._store.forget(fileless)
        if deleted:
            age = written_duration(self._history_ttl)
            log.info("rows deleted of exports whose files went more than HISTORY_TTL, %s, ago: %d", age, deleted)

    async def name_unknown(self) -> None:
        """Says which files have no row. They are left alone: the table may have been restored from a backup."""
        for batch in _batches(await self._directory.spools(), BATCH):
            for export_id in await self._store.unknown(batch):
                log.warning("the exports table knows nothing of %s", self._directory.file_of(export_id))

    async def remove(self, export_id: UUID) -> None:
        """Removes the file of a finished export. Where it lies in the folder of another server, that one does."""
        await self._store.note_removed([export_id])
        self._sealed.drop(export_id)
        await self._directory.remove(export_id)

    async def make_room(self) -> None:
        """Before an export is taken. Raises InsufficientStorage and Unavailable."""
        try:
            async with asyncio.timeout(PATIENCE):
                roomy = await self._has_room()
        except TimeoutError as error:
            raise Unavailable("room is being made") from error
        except OSError as error:
            raise Unavailable(f"the folder of the exports cannot be used: {error.strerror}") from error
        if not roomy:
            raise InsufficientStorage(FULL)

    async def keep_room(self) -> None:
        """While one is written. Raises ExportFailure; a table that does not answer is asked again by another run."""
        try:
            roomy = await self._has_room()
        except (Unavailable, OSError) as error:
            raise TransientFailure(f"no room could be made: {error}") from error
        if not roomy:
            raise ExportFailure(FULL)

    async def _has_room(self) -> bool:
        if not await self._directory.shortage():
            return True
        async with self._making_room:
            if await self._evict():
                return True
            await self.sweep()
            return await self._evict()

    async def _evict(self) -> bool:
        """Whether there is room, after as many of the least recently used as must go were removed, or none."""
        shortage = await self._directory.shortage(recount=True)
        while shortage:
            if monotonic() < self._settled_at or not await self._can_be_met(shortage):
                return False
            written = self._directory.written
            if not await self._free(shortage):
                return False
            before, shortage = shortage, await self._directory.shortage()
            if shortage.disk - (self._directory.written - written) >= before.disk > 0:
                self._settled_at = monotonic() + SETTLING
        return True

    async def _free(self, shortage: Shortage) -> bool:
        """Whether that much could be removed."""
        size = 1  # the first alone: if its file cannot be removed, no other is given up
        while shortage and (victims := await self._victims(shortage, size)):
            shortage = shortage.after(await self._remove(victims, "was removed to make room"))
            if self._directory.undeletable:
                return False
            size = min(2 * size, BATCH)
        return not shortage

    async def _can_be_met(self, shortage: Shortage) -> bool:
        if self._directory.undeletable or shortage.bytes > self._directory.used:
            return False
        async for batch in self._least_used():
            shortage = shortage.after([size for _, size in batch])
            if not shortage:
                return True
        return False

    async def _victims(self, shortage: Shortage, most: int) -> list[UUID]:
        """The first of the least recently used, as many as are needed, and at most so many."""
        victims: list[UUID] = []
        async for batch in self._least_used():
            for export_id, size in batch[: most - len(victims)]:
                if shortage:
                    shortage = shortage.after([size])
                    victims.append(export_id)
            if not shortage or len(victims) >= most:
                break
        return victims

    async def _least_used(self) -> AsyncIterator[list[tuple[UUID, int]]]:
        """Exports in this folder that may be removed, with the sizes of their files, least recently used first."""
        place: UsedAt | None = None
        while found := await self._store.least_used(self._directory.id, place, self._sealed.being_read, BATCH):
            place = found[-1]
            ids = [export_id for _, export_id in found]
            sizes = await self._directory.sizes(ids)
            yield [(export_id, size) for export_id, size in zip(ids, sizes, strict=True) if size is not None]

    async def _remove(self, export_ids: Sequence[UUID], why: str) -> list[int]:
        """Those of which no download has begun meanwhile. Gives the sizes of the files that are gone."""
        chosen = [export_id for export_id in export_ids if not self._sealed.is_read(export_id)]
        removed = await self._store.note_removed(chosen)
        for export_id in removed:
            self._sealed.drop(export_id)
            log.info("export %s %s", export_id, why)
        return await self._directory.remove(*removed)


async def _attempt(act: Callable[[], Awaitable[None]], failure: str) -> None:
    """Does one of the things that are done now and then; what keeps it from that is logged as `failure`."""
    try:
        await act()
    except Unavailable as error:
        log.warning("%s: %s: %r", failure, error, error.__cause__)
    except Exception:
        log.exception("%s", failure)


def _batches(items: Iterable[T], size: int) -> Iterable[list[T]]:
    rest = iter(items)
    return iter(lambda: list(islice(rest, size)), [])
