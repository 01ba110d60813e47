"""The handlers of downloads. Everything is decided before the first byte, in the order of RFC 9110.

A live export is followed. A completed one has a length, validators and ranges. In any other state the response is an
error. A compressed representation has the same two states, on its own.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID

from aiohttp import web

from streamer.coding import Coding
from streamer.errors import BadBody, BadParameter, InsufficientStorage, TooEarly, Unavailable
from streamer.http.api.exports import Exports, requested_id
from streamer.http.download.completed import CompletedDownloads
from streamer.http.download.compressed import CompressedDownloads
from streamer.http.download.delivery import DownloadResponse
from streamer.http.download.live import LiveDownloads
from streamer.http.download.negotiation import DownloadRequest, content_headers
from streamer.http.net.connection import close_at_eof
from streamer.http.net.download_slots import DownloadSlots
from streamer.http.net.readiness import wait_drained
from streamer.http.target import read_query, values_of
from streamer.jobs.active import ActiveExport
from streamer.jobs.admission import Admission
from streamer.jobs.representations.making import TOO_MANY
from streamer.model import OPEN, ExportRequest
from streamer.spool.names import SpoolName


class Downloads:
    def __init__(
        self,
        admission: Admission,
        exports: Exports,
        *,
        live: LiveDownloads,
        completed: CompletedDownloads,
        compressed: CompressedDownloads,
        slots: DownloadSlots,
        abandon_after: float,
    ) -> None:
        """`abandon_after`: seconds after which a streamed export without a client is cancelled."""
        self._admission = admission
        self._exports = exports
        self._live = live
        self._completed = completed
        self._compressed = compressed
        self._slots = slots
        self._abandon_after = abandon_after

    async def download(self, request: web.Request) -> web.StreamResponse:
        """`GET /exports/{id}/download`."""
        return await self._respond(request)

    async def gzip_file(self, request: web.Request) -> web.StreamResponse:
        """`GET /exports/{id}/download.csv.gz`."""
        return await self._respond(request, Coding.GZIP)

    async def zstd_file(self, request: web.Request) -> web.StreamResponse:
        """`GET /exports/{id}/download.csv.zst`."""
        return await self._respond(request, Coding.ZSTD)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """`GET /exports/csv`: creates an export and streams it in the same response. HEAD creates none."""
        export_request = await self._exports.read_request(request, ignored="filename")
        download = DownloadRequest.for_new_export(request)
        async with self._slot(download):
            self._ensure_possible(download)
            if download.is_head:
                return await _send_headers(request, export_request)
            live = await self._admission.submit(export_request, OPEN, abandon_after=self._abandon_after)
            assert isinstance(live, ActiveExport)  # without a key, it is always a new one
            return await self._send_live(download, live)

    def _ensure_possible(self, download: DownloadRequest) -> None:
        """No export is created whose download would be refused at once. Raises NotAcceptable and Unavailable."""
        acceptable = download.codings()
        if Coding.IDENTITY not in acceptable and not self._compressed.has_place:
            raise Unavailable(TOO_MANY)

    async def _respond(self, request: web.Request, file: Coding | None = None) -> web.StreamResponse:
        export_id = requested_id(request)
        if request.can_read_body:
            raise BadBody("a download takes no request body")
        follow = _parse_live(request)
        download = DownloadRequest.from_request(request, file)
        async with self._slot(download):
            live = self._admission.active(export_id, OPEN)
            if live is None:
                return await self._send(download, export_id, follow=follow)
            if not follow:
                raise TooEarly("the export is not finished yet, and live=false")
            return await self._send_live(download, live)

    async def _send_live(self, download: DownloadRequest, live: ActiveExport) -> web.StreamResponse:
        close_at_eof(download.request)
        with live.followed():
            await self._live.wait_first_rows(download, live)
            return await self._send(download, live.id, live)

    async def _send(
        self, download: DownloadRequest, export_id: UUID, live: ActiveExport | None = None, *, follow: bool = True
    ) -> web.StreamResponse:
        """Sends the file that the URL names, or the best of the codings that can be had now."""
        if download.file:
            return await self._compressed.send(download, SpoolName(export_id, download.file), live, OPEN, follow=follow)
        codings = download.codings_of(export_id, partial(self._compressed.at_hand, export_id))
        for place, coding in enumerate(codings, 1):
            try:
                return await self._send_in(coding, download, export_id, live, is_choice=place < len(codings))
            except (Unavailable, InsufficientStorage):
                if coding is Coding.IDENTITY or place == len(codings):
                    raise
        raise AssertionError("one of the codings is sent, or raises an error")

    async def _send_in(
        self,
        coding: Coding,
        download: DownloadRequest,
        export_id: UUID,
        live: ActiveExport | None,
        *,
        is_choice: bool,
    ) -> web.StreamResponse:
        if coding is not Coding.IDENTITY:
            return await self._compressed.send(download, SpoolName(export_id, coding), live, OPEN, is_choice=is_choice)
        if live is not None:
            return await self._live.follow(download, live)
        return await self._completed.send(download, coding, export_id, OPEN)

    @asynccontextmanager
    async def _slot(self, download: DownloadRequest) -> AsyncIterator[None]:
        """Takes a slot, which is released once the client has read what was sent."""
        with self._slots.acquire(download.request):
            yield
            await wait_drained(download.request)


async def _send_headers(request: web.Request, export_request: ExportRequest) -> web.StreamResponse:
    response = DownloadResponse(headers=content_headers(header=export_request.spec.dialect.header))
    with response.body():
        await response.begin(request)
    return response


def _parse_live(request: web.Request) -> bool:
    """Returns whether a live export may be followed: the parameter `live`, by default true. Raises BadParameter."""
    values = values_of(read_query(request), "live") or ["true"]
    if values not in (["true"], ["false"]):
        raise BadParameter("live", "must be true or false, once")
    return values == ["true"]
