"""The lifetime of finished exports: expiry, eviction, the sweep and the history.

A completed export is kept for `ttl`, or for a shorter time of its own. When space is short, because the folder has
reached its limit or the disk its reserve, the least recently used exports are evicted first. A file that is being
downloaded is never removed. Nothing is evicted if all evictions together would not free enough: then something else
fills the disk. Each server manages only the files in its own folder.

Compressed representations are evicted before any export, because they can be made again. They never evict an export.

The row is updated first, and the file removed after it. A removal that is interrupted, or that the file system refuses,
leaves a file that no client can download. The sweep removes it: at the start, periodically, and before an export is
refused for lack of space. While a file cannot be removed, nothing else is evicted.

A row is kept for `history_ttl` after its file was removed, so that clients learn the fate of an export. A row whose
file is still in the folder stays, because the sweep needs it to know that the file may be removed. For the same reason
the rows of other folders are left to their servers.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from itertools import islice
from time import monotonic
from typing import TypeVar
from uuid import UUID

from streamer.coding import Coding
from streamer.durations import written_duration
from streamer.errors import ExportFailure, InsufficientStorage, TransientFailure, Unavailable
from streamer.jobs.completed import CompletedCache
from streamer.jobs.representation_store import RepresentationStore
from streamer.jobs.representation_store import UsedAt as RepresentationUsedAt
from streamer.jobs.store import RemovedAt, Store, UsedAt
from streamer.jobs.times import JobTimes
from streamer.spool.directory import SpoolDirectory
from streamer.spool.names import SpoolName
from streamer.spool.space import Shortage

log = logging.getLogger(__name__)

SETTLING = 30.0  # seconds without a removal after one that has freed nothing: some file systems free space later
MAX_ROOM_WAIT = 10.0  # seconds that a new export may wait for room
BATCH = 200  # exports in one statement
FULL = "the server has no room for more: SPOOL_MAX_BYTES or SPOOL_DISK_RESERVE is reached"

T = TypeVar("T")

Candidates = Callable[[], AsyncIterator[list[tuple[SpoolName, int]]]]
"""Yields files that may be evicted, with their sizes in bytes."""


class Retention:
    """`ttl` and `history_ttl` are in seconds."""

    def __init__(
        self,
        store: Store,
        representations: RepresentationStore,
        directory: SpoolDirectory,
        completed: CompletedCache,
        *,
        ttl: float,
        history_ttl: float,
        times: JobTimes,
    ) -> None:
        self._store = store
        self._representations = representations
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
        for batch in _batches(_whole(found).items(), BATCH):
            await self._sweep_exports(dict(batch))
        for names in _batches(_compressed(found), BATCH):
            await self._remove_garbage(await self._representations.garbage(self._directory.id, names))

    async def _sweep_exports(self, found: Mapping[UUID, int]) -> None:
        """`found` are exports with the sizes of their files in bytes."""
        ids, sizes = list(found), list(found.values())
        await self._store.locate(self._directory.id, ids)
        garbage = await self._store.garbage(self._directory.id, ids, sizes)
        await self._remove_garbage([SpoolName(export_id) for export_id in garbage])

    async def _remove_garbage(self, garbage: Sequence[SpoolName]) -> None:
        unused = [name for name in garbage if not self._directory.is_written(name)]
        for name in unused:
            log.info("the file %s is removed: no client can request it", name.file_name)
        await self._directory.remove_files(unused)

    async def delete_history(self) -> None:
        """Deletes rows, with their idempotency keys, of exports whose files were removed `history_ttl` ago."""
        deleted = 0
        place: RemovedAt | None = None
        while found := await self._store.without_file(self._directory.id, self._history_ttl, place, BATCH):
            place = found[-1]
            export_ids = [export_id for _, export_id in found]
            fileless = await self._without_any_file(export_ids)
            if fileless:
                deleted += await self._store.delete_rows(fileless)
        if deleted:
            age = written_duration(self._history_ttl)
            log.info("deleted %d rows of exports whose files were removed more than HISTORY_TTL (%s) ago", deleted, age)

    async def _without_any_file(self, export_ids: Sequence[UUID]) -> list[UUID]:
        names = [SpoolName(export_id, coding) for export_id in export_ids for coding in Coding]
        sizes = await self._directory.sizes(names)
        with_file = {name.export_id for name, size in zip(names, sizes, strict=True) if size is not None}
        return [export_id for export_id in export_ids if export_id not in with_file]

    async def name_unknown(self) -> None:
        """Logs the files that have no row. They are not removed: the table may have been restored from a backup."""
        for batch in _batches(_whole(await self._directory.spools()), BATCH):
            for export_id in await self._store.unknown(batch):
                log.warning("%s is not in the exports table, and is left alone", self._directory.file_of(export_id))

    async def remove(self, export_id: UUID) -> None:
        """Removes the file of a finished export. A file in the folder of another server is removed there."""
        await self._store.note_removed([export_id])
        self._completed.drop(export_id)
        await self._directory.remove(export_id)

    async def make_room(self) -> None:
        """Must be awaited before an export is queued. Raises InsufficientStorage and Unavailable."""
        await self._make_room(self._everything)

    async def make_room_for_representation(self) -> None:
        """As `make_room`, before a representation is made."""
        await self._make_room(self._compressed)

    async def _make_room(self, candidates: Candidates) -> None:
        try:
            async with asyncio.timeout(MAX_ROOM_WAIT):
                has_room = await self._has_room(candidates)
        except TimeoutError as error:
            raise Unavailable("room is being made") from error
        except OSError as error:
            raise Unavailable(f"the folder of the exports cannot be used: {error.strerror}") from error
        if not has_room:
            raise InsufficientStorage(FULL)

    async def keep_room(self) -> None:
        """Must be awaited while an export is written. Raises ExportFailure, and TransientFailure without the table."""
        await self._keep_room(self._everything)

    async def keep_room_for_representation(self) -> None:
        """As `keep_room`, while a representation is written."""
        await self._keep_room(self._compressed)

    async def _keep_room(self, candidates: Candidates) -> None:
        try:
            has_room = await self._has_room(candidates)
        except (Unavailable, OSError) as error:
            raise TransientFailure(f"no room could be made: {error}") from error
        if not has_room:
            raise ExportFailure(FULL)

    async def _has_room(self, candidates: Candidates) -> bool:
        if not await self._directory.shortage():
            return True
        async with self._making_room:
            if await self._evict(candidates):
                return True
            await self.sweep()
            return await self._evict(candidates)

    async def _evict(self, candidates: Candidates) -> bool:
        """Evicts as many of the candidates as necessary, or none. Returns whether there is room."""
        shortage = await self._directory.shortage(recount=True)
        while shortage:
            if monotonic() < self._settled_at or not await self._can_meet(shortage, candidates):
                return False
            written = self._directory.written
            if not await self._free(shortage, candidates):
                return False
            before, shortage = shortage, await self._directory.shortage()
            if shortage.disk - (self._directory.written - written) >= before.disk > 0:
                self._settled_at = monotonic() + SETTLING
        return True

    async def _free(self, shortage: Shortage, candidates: Candidates) -> bool:
        """Evicts candidates until the shortage is met. Returns whether that succeeded."""
        size = 1  # the first alone: if its file cannot be removed, no other is evicted
        while shortage and (victims := await self._victims(shortage, candidates, size)):
            shortage = shortage.after(await self._remove_files(victims))
            if self._directory.undeletable:
                return False
            size = min(2 * size, BATCH)
        return not shortage

    async def _can_meet(self, shortage: Shortage, candidates: Candidates) -> bool:
        if self._directory.undeletable or shortage.bytes > self._directory.used:
            return False
        async for batch in candidates():
            shortage = shortage.after([size for _, size in batch])
            if not shortage:
                return True
        return False

    async def _victims(self, shortage: Shortage, candidates: Candidates, limit: int) -> list[SpoolName]:
        """Returns the first candidates that meet the shortage, at most `limit`."""
        victims: list[SpoolName] = []
        async for batch in candidates():
            for name, size in batch[: limit - len(victims)]:
                if shortage:
                    shortage = shortage.after([size])
                    victims.append(name)
            if not shortage or len(victims) >= limit:
                break
        return victims

    async def _everything(self) -> AsyncIterator[list[tuple[SpoolName, int]]]:
        """Yields the files that may be evicted, with their sizes in bytes, in the order in which they are evicted."""
        async for batch in self._compressed():
            yield batch
        place: UsedAt | None = None
        while found := await self._store.least_used(self._directory.id, place, self._completed.being_read, BATCH):
            place = found[-1]
            yield await self._sized([SpoolName(export_id) for _, export_id in found])

    async def _compressed(self) -> AsyncIterator[list[tuple[SpoolName, int]]]:
        """As `_everything`, the compressed representations alone."""
        place: RepresentationUsedAt | None = None
        read = self._completed.being_read
        while found := await self._representations.least_used(self._directory.id, place, read, BATCH):
            place = found[-1]
            yield await self._sized([SpoolName(export_id, coding) for _, export_id, coding in found])

    async def _sized(self, names: list[SpoolName]) -> list[tuple[SpoolName, int]]:
        sizes = await self._directory.sizes(names)
        return [(name, size) for name, size in zip(names, sizes, strict=True) if size is not None]

    async def _remove_files(self, names: Sequence[SpoolName]) -> list[int]:
        """Evicts exports, each with all its files, and representations. Returns the sizes of the removed files."""
        exports = [name.export_id for name in names if name.coding is Coding.IDENTITY]
        representations = [name for name in names if name.coding is not Coding.IDENTITY]
        sizes = await self._remove_representations(representations) if representations else []
        return sizes + await self._remove(exports, "was removed to make room") if exports else sizes

    async def _remove_representations(self, names: Sequence[SpoolName]) -> list[int]:
        unread = [name for name in names if not self._completed.is_read(name.export_id)]
        removed = await self._representations.note_removed(unread)
        for name in removed:
            self._completed.drop_file(name)
            log.info("the %s of export %s was removed to make room", name.coding, name.export_id)
        return await self._directory.remove_files(removed)

    async def _remove(self, export_ids: Sequence[UUID], why: str) -> list[int]:
        """Removes those of which no download has begun meanwhile. Returns the sizes of the removed files in bytes."""
        chosen = [export_id for export_id in export_ids if not self._completed.is_read(export_id)]
        removed = await self._store.note_removed(chosen)
        for export_id in removed:
            self._completed.drop(export_id)
            log.info("export %s %s", export_id, why)
        return await self._directory.remove(*removed)


def _whole(found: Mapping[SpoolName, int]) -> dict[UUID, int]:
    """Returns the exports whose CSV was found, with its size in bytes."""
    return {name.export_id: size for name, size in found.items() if name.coding is Coding.IDENTITY}


def _compressed(found: Iterable[SpoolName]) -> list[SpoolName]:
    return [name for name in found if name.coding is not Coding.IDENTITY]


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
