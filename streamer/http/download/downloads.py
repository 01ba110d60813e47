"""The handlers of downloads. Everything is decided before the first byte, in the order of RFC 9110.

A live export is followed. A completed one has a length, validators and ranges. In any other state the response is an
error.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from streamer.errors import BadBody, BadParameter, TooEarly
from streamer.http.api.exports import Exports, requested_id
from streamer.http.download.completed import CompletedDownloads
from streamer.http.download.compression import GzipStreams
from streamer.http.download.delivery import DownloadResponse
from streamer.http.download.live import LiveDownloads
from streamer.http.download.negotiation import DownloadRequest, content_headers
from streamer.http.net.download_slots import DownloadSlots
from streamer.http.net.readiness import wait_drained
from streamer.http.target import read_query, values_of
from streamer.jobs.active import ActiveExport
from streamer.jobs.admission import Admission
from streamer.model import OPEN, ExportRequest
from streamer.protocol.encoding import Coding


class Downloads:
    def __init__(
        self,
        admission: Admission,
        exports: Exports,
        *,
        live: LiveDownloads,
        completed: CompletedDownloads,
        slots: DownloadSlots,
        gzip: GzipStreams,
        abandon_after: float,
    ) -> None:
        """`abandon_after`: seconds after which a streamed export without a client is cancelled."""
        self._admission = admission
        self._exports = exports
        self._live = live
        self._completed = completed
        self._slots = slots
        self._gzip = gzip
        self._abandon_after = abandon_after

    async def download(self, request: web.Request) -> web.StreamResponse:
        """`GET /exports/{id}/download`."""
        export_id = requested_id(request)
        if request.can_read_body:
            raise BadBody("a download takes no request body")
        follow = _parse_live(request)
        download = DownloadRequest.from_request(request)
        async with self._slot(download) as coding:
            live = self._admission.active(export_id, OPEN)
            if live is None:
                return await self._completed.send(download, coding, export_id, OPEN)
            if not follow:
                raise TooEarly("the export is not finished yet, and live=false")
            return await self._live.send(download, coding, live)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """`GET /exports/csv`: creates an export and streams it in the same response. HEAD creates none."""
        export_request = await self._exports.read_request(request, ignored="filename")
        download = DownloadRequest.for_new_export(request)
        async with self._slot(download) as coding:
            if download.is_head:
                return await _send_headers(request, export_request)
            live = await self._admission.submit(export_request, OPEN, abandon_after=self._abandon_after)
            assert isinstance(live, ActiveExport)  # without a key, it is always a new one
            return await self._live.send(download, coding, live)

    @asynccontextmanager
    async def _slot(self, download: DownloadRequest) -> AsyncIterator[Coding]:
        """Takes a slot, and chooses the coding. The slot is released once the client has read what was sent."""
        with self._slots.acquire(download.request):
            with self._gzip.coding_for(download) as coding:
                yield coding
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
