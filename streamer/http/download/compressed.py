"""Downloads of compressed representations, which are made by the first request, and then served like any other file.

A representation that is being made is followed, as a live export is. One that is complete has a length and ranges. A
request waits for one that must be compared with what was served before.
"""

import asyncio
from contextlib import suppress
from uuid import UUID

from aiohttp import web

from streamer.coding import Coding
from streamer.errors import TooEarly, Unavailable
from streamer.http.download.completed import CompletedDownloads
from streamer.http.download.live import DownloadTimes, LiveDownloads
from streamer.http.download.negotiation import DownloadRequest, ensure_same_bytes
from streamer.jobs.active import ActiveExport
from streamer.jobs.completed import CompletedCache, NotMadeError
from streamer.jobs.representations.active import ActiveRepresentation
from streamer.jobs.representations.making import AlreadyMadeError, Representations
from streamer.model import EVERYBODY, Viewer
from streamer.spool.names import SpoolName


class CompressedDownloads:
    def __init__(
        self,
        representations: Representations,
        cache: CompletedCache,
        *,
        live: LiveDownloads,
        completed: CompletedDownloads,
        times: DownloadTimes,
    ) -> None:
        self._representations = representations
        self._cache = cache
        self._live = live
        self._completed = completed
        self._times = times

    @property
    def has_place(self) -> bool:
        """Whether another representation can be made now."""
        return self._representations.has_place

    def at_hand(self, export_id: UUID, coding: Coding) -> bool:
        """Whether a download needs no compression that would not be made without it."""
        name = SpoolName(export_id, coding)
        return self._representations.active(name, EVERYBODY) is not None or self._cache.is_kept(name)

    async def send(
        self,
        download: DownloadRequest,
        name: SpoolName,
        live: ActiveExport | None,
        viewer: Viewer,
        *,
        is_choice: bool = False,
        follow: bool = True,
    ) -> web.StreamResponse:
        """Sends the representation. `live` is the export if it is unfinished, and has had time to show rows.

        Raises Unavailable and InsufficientStorage if it cannot be made now; TooEarly if it is not complete and `follow`
        is False; and as LiveDownloads and CompletedDownloads. With `is_choice` the client accepts another coding, so it
        does not wait long.
        """
        active = self._representations.active(name, viewer)
        if active is None and live is not None:
            active = await self._begin(download, name, live, is_choice=is_choice)
        while active is None:
            try:
                return await self._completed.send(download, name.coding, name.export_id, viewer)
            except NotMadeError as error:
                with suppress(AlreadyMadeError):  # since it was looked up
                    active = await self._begin(download, name, None, is_choice=is_choice, is_lost=error.is_lost)
        if not follow:
            raise TooEarly("the compressed file is not finished yet, and live=false")
        with active.followed():
            await self._wait_proven(active, self._times.first_rows if is_choice else self._times.compressed)
            return await self._follow(download, active)

    async def _begin(
        self,
        download: DownloadRequest,
        name: SpoolName,
        live: ActiveExport | None,
        *,
        is_choice: bool,
        is_lost: bool = False,
    ) -> ActiveRepresentation:
        """An export that this request has created is not left without its only reader for want of a place."""
        patience = self._times.compressed if download.file or (download.is_new and not is_choice) else 0.0
        return await self._representations.begin(name, live, patience=patience, is_lost=is_lost)

    async def _wait_proven(self, active: ActiveRepresentation, patience: float) -> None:
        """Raises Unavailable if it takes longer than `patience` seconds, or if the representation has failed."""
        try:
            async with asyncio.timeout(patience):
                await active.settled()
        except TimeoutError as error:
            raise Unavailable("the compressed file is being made again; try again") from error
        if active.spool.broken.done():
            raise Unavailable(f"the compressed file could not be made: {active.spool.broken.result()}")

    async def _follow(self, download: DownloadRequest, active: ActiveRepresentation) -> web.StreamResponse:
        ensure_same_bytes(download, active.row)
        if download.is_head and active.export_is_complete:
            await self._wait_end(active)
        try:
            if active.spool.sealed:
                return await self._completed.send(download, active.coding, active.id, EVERYBODY)
            return await self._live.follow(download, active)
        except NotMadeError as error:
            raise Unavailable("the compressed file could not be finished; try again") from error

    async def _wait_end(self, active: ActiveRepresentation) -> None:
        """For the length: some clients need it before they download."""
        try:
            async with asyncio.timeout(self._times.compressed):
                await active.spool.end()
        except TimeoutError:
            return
