"""The lifetime of finished exports: expiry, eviction, the sweep and the history.

A completed export is kept for `ttl`, or for a shorter time of its own. When space is short, because the folder has
reached its limit or the disk its reserve, the least recently used exports are evicted first. A file that is being
downloaded is never removed. Nothing is evicted if all evictions together would not free enough: then something else
fills the disk. Each server manages only the files in its own folder.

The row is updated first, and the file removed after it. A removal that is interrupted, or that the file system refuses,
leaves a file that no client can download. The sweep removes it: at the start, periodically, and before an export is
refused for lack of space. While a file cannot be removed, nothing else is evicted.

A row is kept for `history_ttl` after its file was removed, so that clients learn the fate of an export. A row whose
file is still in the folder stays, because the sweep needs it to know that the file may be removed. For the same reason
the rows of other folders are left to their servers.
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
from streamer.jobs.store import RemovedAt, Store, UsedAt
from streamer.jobs.times import JobTimes
from streamer.spool.directory import SpoolDirectory
from streamer.spool.space import Shortage

log = logging.getLogger(__name__)

SETTLING = 30.0  # seconds without a removal after one that has freed nothing: some file systems free space later
MAX_ROOM_WAIT = 10.0  # seconds that a new export may wait for room
BATCH = 200  # exports in one statement
FULL = "the server has no room for more: SPOOL_MAX_BYTES or SPOOL_DISK_RESERVE is reached"

T = TypeVar("T")


class Retention:
    """`ttl` and `history_ttl` are in seconds."""

    def __init__(
        self,
        store: Store,
        directory: SpoolDirectory,
        completed: CompletedCache,
        *,
        ttl: float,
        history_ttl: float,
        times: JobTimes,
    ) -> None:
        self._store = store
        self._directory = directory
        self._completed = completed
        self._ttl = timedelta(seconds=ttl)
        self._history_ttl = timedelta(seconds=history_ttl)
        self._sweep_interval = times.sweep_interval
        self._making_room = asyncio.Lock()
        self._settled_at = 0.0

    async def run(self) -> None:
        """Expires exports, sweeps the folder and deletes old rows every `sweep_interval` seconds, until cancelled."""
        while True:
            await _attempt(self.expire, "expired exports could not be removed")
            await _attempt(self.sweep, "files that no client can ask for could not be removed")
            await _attempt(self.delete_history, "the rows of exports that are long gone could not be deleted")
            await asyncio.sleep(self._sweep_interval)

    async def expire(self) -> None:
        while expired := await self._store.expired(self._directory.id, self._ttl, self._completed.being_read, BATCH):
            await self._remove(expired, "has expired")

    async def sweep(self) -> None:
        """Removes the files that no client can ask for."""
        found = await self._directory.spools()
        for batch in _batches(found.items(), BATCH):
            ids, sizes = [found for found, _ in batch], [size for _, size in batch]
            await self._store.locate(self._directory.id, ids)
            garbage = await self._store.garbage(self._directory.id, ids, sizes)
            for export_id in garbage:
                log.info("the file of export %s is removed: no client can request it", export_id)
            await self._directory.remove(*(each for each in garbage if not self._directory.is_written(each)))

    async def delete_history(self) -> None:
        """Deletes rows, with their idempotency keys, of exports whose files were removed `history_ttl` ago."""
        deleted = 0
        place: RemovedAt | None = None
        while found := await self._store.without_file(self._directory.id, self._history_ttl, place, BATCH):
            place = found[-1]
            export_ids = [export_id for _, export_id in found]
            sizes = await self._directory.sizes(export_ids)
            fileless = [export_id for export_id, size in zip(export_ids, sizes, strict=True) if size is None]
            if fileless:
                deleted += await self._store.delete_rows(fileless)
        if deleted:
            age = written_duration(self._history_ttl)
            log.info("deleted %d rows of exports whose files were removed more than HISTORY_TTL (%s) ago", deleted, age)

    async def name_unknown(self) -> None:
        """Logs the files that have no row. They are not removed: the table may have been restored from a backup."""
        for batch in _batches(await self._directory.spools(), BATCH):
            for export_id in await self._store.unknown(batch):
                log.warning("%s is not in the exports table, and is left alone", self._directory.file_of(export_id))

    async def remove(self, export_id: UUID) -> None:
        """Removes the file of a finished export. A file in the folder of another server is removed there."""
        await self._store.note_removed([export_id])
        self._completed.drop(export_id)
        await self._directory.remove(export_id)

    async def make_room(self) -> None:
        """Must be awaited before an export is queued. Raises InsufficientStorage and Unavailable."""
        try:
            async with asyncio.timeout(MAX_ROOM_WAIT):
                has_room = await self._has_room()
        except TimeoutError as error:
            raise Unavailable("room is being made") from error
        except OSError as error:
            raise Unavailable(f"the folder of the exports cannot be used: {error.strerror}") from error
        if not has_room:
            raise InsufficientStorage(FULL)

    async def keep_room(self) -> None:
        """Must be awaited while an export is written. Raises ExportFailure, and TransientFailure without the table."""
        try:
            has_room = await self._has_room()
        except (Unavailable, OSError) as error:
            raise TransientFailure(f"no room could be made: {error}") from error
        if not has_room:
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
        """Evicts as many of the least recently used exports as necessary, or none. Returns whether there is room."""
        shortage = await self._directory.shortage(recount=True)
        while shortage:
            if monotonic() < self._settled_at or not await self._can_meet(shortage):
                return False
            written = self._directory.written
            if not await self._free(shortage):
                return False
            before, shortage = shortage, await self._directory.shortage()
            if shortage.disk - (self._directory.written - written) >= before.disk > 0:
                self._settled_at = monotonic() + SETTLING
        return True

    async def _free(self, shortage: Shortage) -> bool:
        """Evicts exports until the shortage is met. Returns whether that succeeded."""
        size = 1  # the first alone: if its file cannot be removed, no other is evicted
        while shortage and (victims := await self._victims(shortage, size)):
            shortage = shortage.after(await self._remove(victims, "was removed to make room"))
            if self._directory.undeletable:
                return False
            size = min(2 * size, BATCH)
        return not shortage

    async def _can_meet(self, shortage: Shortage) -> bool:
        if self._directory.undeletable or shortage.bytes > self._directory.used:
            return False
        async for batch in self._least_used():
            shortage = shortage.after([size for _, size in batch])
            if not shortage:
                return True
        return False

    async def _victims(self, shortage: Shortage, limit: int) -> list[UUID]:
        """Returns the least recently used exports that meet the shortage, at most `limit`."""
        victims: list[UUID] = []
        async for batch in self._least_used():
            for export_id, size in batch[: limit - len(victims)]:
                if shortage:
                    shortage = shortage.after([size])
                    victims.append(export_id)
            if not shortage or len(victims) >= limit:
                break
        return victims

    async def _least_used(self) -> AsyncIterator[list[tuple[UUID, int]]]:
        """Yields exports that may be evicted, with the sizes of their files in bytes, least recently used first."""
        place: UsedAt | None = None
        while found := await self._store.least_used(self._directory.id, place, self._completed.being_read, BATCH):
            place = found[-1]
            ids = [export_id for _, export_id in found]
            sizes = await self._directory.sizes(ids)
            yield [(export_id, size) for export_id, size in zip(ids, sizes, strict=True) if size is not None]

    async def _remove(self, export_ids: Sequence[UUID], why: str) -> list[int]:
        """Removes those of which no download has begun meanwhile. Returns the sizes of the removed files in bytes."""
        chosen = [export_id for export_id in export_ids if not self._completed.is_read(export_id)]
        removed = await self._store.note_removed(chosen)
        for export_id in removed:
            self._completed.drop(export_id)
            log.info("export %s %s", export_id, why)
        return await self._directory.remove(*removed)


async def _attempt(act: Callable[[], Awaitable[None]], failure: str) -> None:
    """Runs one of the periodic tasks. Logs an error as `failure`."""
    try:
        await act()
    except Unavailable as error:
        log.warning("%s: %s: %r", failure, error, error.__cause__)
    except Exception:
        log.exception("%s", failure)


def _batches(items: Iterable[T], size: int) -> Iterable[list[T]]:
    rest = iter(items)
    return iter(lambda: list(islice(rest, size)), [])
