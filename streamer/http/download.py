"""Downloads: decide, then deliver.

An unfinished export is followed, a completed one is sent with its length, and anything else is an answer without a
body. Everything is decided before the first byte. An export that has just been asked for gets a moment to show its
first rows or to fail: a statement that the database refuses is then an error with a reason, not a body that breaks.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

from aiohttp import HttpVersion11, web

from streamer.errors import ClientError, ExportFailed, ExportGone, Unavailable
from streamer.http.delivery import DownloadResponse, send_head, send_live, send_sealed
from streamer.http.exports import Exports, requested_id
from streamer.http.status import entity_tag, links
from streamer.jobs.live import LiveExport
from streamer.jobs.queue import ExportQueue
from streamer.model import Export, State
from streamer.protocol.disposition import attachment
from streamer.spool.directory import SpoolDirectory
from streamer.spool.follower import Follower, TruncatedError

log = logging.getLogger(__name__)

FIRST_ROWS = 1.0  # seconds that a new export has to show rows or to fail, before the headers go out without either
ELSEWHERE_RETRY_AFTER = 5  # seconds


class Downloads:
    def __init__(
        self, queue: ExportQueue, directory: SpoolDirectory, exports: Exports, *, abandon_after: float
    ) -> None:
        self._queue = queue
        self._directory = directory
        self._exports = exports
        self._abandon_after = abandon_after

    async def download(self, request: web.Request) -> web.StreamResponse:
        """`GET /exports/{id}/download`."""
        export_id = requested_id(request)
        response = DownloadResponse(headers=_headers(export_id))
        if live := self._queue.live(export_id):
            return await self._live(request, response, live)
        return await self._sealed(request, response, await self._queue.get(export_id))

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """`GET /exports/csv`: an export, streamed in the request that asks for it. HEAD starts nothing."""
        spec = await self._exports.read_spec(request)
        if request.method == "HEAD":
            response = DownloadResponse(headers=REPRESENTATION)
            await send_head(request, response)
            return response
        live = await self._queue.submit(spec, abandon_after=self._abandon_after)
        response = DownloadResponse(headers=_headers(live.id))
        response.headers["X-Export-Id"] = str(live.id)
        response.headers["Content-Location"] = links(live.id)["download"]
        return await self._live(request, response, live)

    async def _live(self, request: web.Request, response: DownloadResponse, live: LiveExport) -> web.StreamResponse:
        with live.followed():
            await self._first_rows(live)
            if request.version < HttpVersion11:
                # Without chunks the end of the body is the end of the connection, which cannot show a failure.
                await live.spool.end()
                return await self._sealed(request, response, await self._queue.get(live.id))
            if request.method == "HEAD":
                await send_head(request, response)
                return response
            with _breaks(live.id), Follower(live.spool) as follower:
                await send_live(request, response, follower)
            return response

    async def _first_rows(self, live: LiveExport) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_ROWS):
                await live.spool.moved_beyond(0)
        if live.spool.broken.done():
            raise _refusal(await self._queue.get(live.id))

    async def _sealed(self, request: web.Request, response: DownloadResponse, export: Export) -> web.StreamResponse:
        if export.state is not State.COMPLETED or export.removed_at is not None:
            raise _refusal(export)
        length = export.progress.bytes
        try:
            file = self._directory.open(export.id, length)
        except FileNotFoundError as error:
            raise ExportGone("the file of this export is gone; start a new one") from error
        with file, _breaks(export.id):
            if request.method == "HEAD":
                await send_head(request, response, length)
            else:
                await send_sealed(request, response, file, length)
        return response


@contextmanager
def _breaks(export_id: UUID) -> Iterator[None]:
    """A body that broke is told by its connection; the response that is not whole sees to that."""
    try:
        yield
    except TruncatedError as error:
        log.warning("export %s: a download was broken off: %s", export_id, error)
    except ConnectionError:
        log.info("export %s: a client left its download", export_id)


def _refusal(export: Export) -> ClientError:
    """Why an export that is not running here has nothing to download."""
    if export.state is State.FAILED:
        return ExportFailed(f"the export failed: {export.error}")
    if export.state.final:
        word = "cancelled" if export.state is State.CANCELLED else "deleted"
        return ExportGone(f"the export was {word}; start a new one")
    return Unavailable("the export is being written by another server", retry_after=ELSEWHERE_RETRY_AFTER)


REPRESENTATION = {
    "Content-Type": "text/csv; charset=utf-8; header=present",
    "Cache-Control": "private, no-transform",
    "X-Accel-Buffering": "no",
}


def _headers(export_id: UUID) -> dict[str, str]:
    return {
        **REPRESENTATION,
        "Content-Disposition": attachment(f"export_{export_id}.csv"),
        "ETag": entity_tag(export_id),
    }
