"""How long finished exports stay, and who makes room.

A completed export stays for `ttl`. When room is short, because the folder has reached its limit or the disk its
reserve, those go first that nobody has asked for the longest. A file that is being downloaded is never removed.

The row is told first and the file removed after it: a sweep that is interrupted leaves a file that nobody can ask for,
and the next start removes that.
"""

import asyncio
import logging
from datetime import timedelta
from uuid import UUID

from streamer.errors import ExportFailure, InsufficientStorage, TransientFailure, Unavailable
from streamer.jobs.sealed import SealedExports
from streamer.jobs.store import Store
from streamer.spool.directory import SpoolDirectory

log = logging.getLogger(__name__)

SWEEP_INTERVAL = 60.0  # seconds
FULL = "the server has no room for more: SPOOL_MAX_BYTES or SPOOL_DISK_RESERVE is reached"


class Retention:
    def __init__(self, store: Store, directory: SpoolDirectory, sealed: SealedExports, *, ttl: float) -> None:
        self._store = store
        self._directory = directory
        self._sealed = sealed
        self._ttl = timedelta(seconds=ttl)

    async def run(self) -> None:
        """Removes what has expired, for ever."""
        while True:
            try:
                await self.expire()
            except Exception:
                log.exception("expired exports could not be removed")
            await asyncio.sleep(SWEEP_INTERVAL)

    async def expire(self) -> None:
        for export_id in await self._store.expired(self._ttl):
            if await self._remove(export_id):
                log.info("export %s has expired", export_id)

    async def make_room(self) -> None:
        """Before an export is taken. Raises InsufficientStorage."""
        if not await self._has_room():
            raise InsufficientStorage(FULL)

    async def keep_room(self) -> None:
        """While one is written. Raises ExportFailure; a table that does not answer is asked again by another run."""
        try:
            roomy = await self._has_room()
        except Unavailable as error:
            raise TransientFailure(f"no room could be made: {error}") from error
        if not roomy:
            raise ExportFailure(FULL)

    async def _has_room(self) -> bool:
        if await self._directory.has_room():
            return True
        for export_id in await self._store.least_used():
            if await self._remove(export_id):
                log.info("export %s was removed to make room", export_id)
                if await self._directory.has_room():
                    return True
        return False

    async def _remove(self, export_id: UUID) -> bool:
        """Whether nobody was reading it."""
        if self._sealed.is_read(export_id):
            return False
        await self._store.note_removed(export_id)
        self._sealed.drop(export_id)
        self._directory.remove(export_id)
        return True
