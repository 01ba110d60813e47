"""Downloads of exports that are still being written. They are followed to the end.

A new export first has some time to show rows or to fail: if the database refuses the statement, the response is an
error with a reason, not a body that breaks. After that time the headers are sent, and the header line of the CSV as
soon as the query runs, so that a connection is not silent while the database sorts.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from aiohttp import web

from streamer.errors import Unavailable
from streamer.http.download.completed import CompletedDownloads
from streamer.http.download.compression import GzipStreams
from streamer.http.download.delivery import DownloadResponse, send_followed, send_parts
from streamer.http.download.negotiation import (
    DownloadRequest,
    not_modified_headers,
    representation_headers,
    validators,
)
from streamer.http.net.connection import close_at_eof
from streamer.jobs.active import ActiveExport
from streamer.jobs.admission import Admission
from streamer.jobs.completed import refusal
from streamer.model import EVERYBODY
from streamer.protocol.encoding import Coding
from streamer.protocol.ranges import Positions, Slice, live_content_range
from streamer.spool.follower import Follower


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadTimes:
    """How long a download of a live export waits, in seconds."""

    source: float = 30.0  # for a source that cannot be reached or is locked; then the answer is an error
    first_rows: float = 1.0  # before the headers are sent without rows


class LiveDownloads:
    """Sends live exports."""

    def __init__(
        self, admission: Admission, completed: CompletedDownloads, gzip: GzipStreams, times: DownloadTimes
    ) -> None:
        self._admission = admission
        self._completed = completed
        self._gzip = gzip
        self._times = times

    async def send(self, download: DownloadRequest, coding: Coding, live: ActiveExport) -> web.StreamResponse:
        """Sends the export while it grows.

        Raises Unavailable if the source cannot be read for too long, PreconditionFailed, and the error of the export if
        it has ended without a file.
        """
        close_at_eof(download.request)
        with live.followed():
            await self._wait_first_rows(download, live)
            if live.spool.broken.done() or not download.allows_chunked:
                await live.spool.end()
                return await self._send_ended(download, coding, live)
            return await self._send_live(download, coding, live)

    async def _send_ended(self, download: DownloadRequest, coding: Coding, live: ActiveExport) -> web.StreamResponse:
        """Sends the file, which another server may have written. A client that has just created it learns its id."""
        try:
            return await self._completed.send(download, coding, live.id, EVERYBODY)
        except Unavailable as error:
            raise Unavailable(error.sentence, headers=download.new_export_headers(live.id)) from error

    async def _send_live(self, download: DownloadRequest, coding: Coding, live: ActiveExport) -> web.StreamResponse:
        tags = validators(live.id, coding)
        assert live.content is not None  # a client knows its id, so there is a row
        headers = representation_headers(download, live.id, live.content, coding, tags)
        if not download.is_modified(tags):
            return web.Response(status=304, headers=not_modified_headers(headers))
        if live.spool.frontier:
            await self._mark_served(download, live)
        selected = download.select_live(tags)
        if isinstance(selected, Positions):
            return await self._send_range(download, live, selected, headers)
        return await self._send_whole(download, coding, live, headers)

    async def _send_range(
        self, download: DownloadRequest, live: ActiveExport, selected: Positions, headers: dict[str, str]
    ) -> web.StreamResponse:
        """Sends a range (RFC 8673). The headers wait until its first byte exists, or until the export has ended."""
        if selected.first >= len(await live.early()):
            await live.spool.moved_beyond(selected.first)
            if live.spool.ended:
                return await self._completed.send(download, Coding.IDENTITY, live.id, EVERYBODY)
            await self._mark_served(download, live)
        response = DownloadResponse(status=206, headers={**headers, "Content-Range": live_content_range(selected)})
        stop = None if selected.last is None else selected.last + 1
        with Follower(live.spool, selected.first, stop, before_first=live.ensure_served, head=live.early) as follower:
            if stop is not None and stop <= live.spool.frontier:
                await send_parts(download.request, response, follower, [Slice(selected.first, stop)])
            else:
                await send_followed(download.request, response, follower)
        return response

    async def _send_whole(
        self, download: DownloadRequest, coding: Coding, live: ActiveExport, headers: dict[str, str]
    ) -> web.StreamResponse:
        response = DownloadResponse(headers=headers)
        send = self._gzip.send_followed if coding is Coding.GZIP else send_followed
        with Follower(live.spool, before_first=live.ensure_served, head=live.early) as follower:
            await send(download.request, response, follower)
        return response

    async def _mark_served(self, download: DownloadRequest, live: ActiveExport) -> None:
        """Called before headers that a byte follows at once. Raises the error of the export if it has just failed."""
        if not download.is_head and not await live.try_mark_served():
            raise refusal(await self._admission.get(live.id, EVERYBODY))

    async def _wait_first_rows(self, download: DownloadRequest, live: ActiveExport) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._times.first_rows):
                await live.spool.moved_beyond(0)
        if live.waiting_for == "source":
            await self._wait_source(download, live)

    async def _wait_source(self, download: DownloadRequest, live: ActiveExport) -> None:
        """Raises Unavailable if that takes too long; the export keeps waiting."""
        try:
            async with asyncio.timeout(self._times.source):
                await live.begun()
        except TimeoutError as error:
            raise Unavailable(
                "the source database cannot be read at the moment; the export waits for it",
                headers=download.new_export_headers(live.id),
            ) from error
