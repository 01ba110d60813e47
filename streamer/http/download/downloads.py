"""Downloads: decide, then deliver. Everything is decided before the first byte.

An unfinished export is followed. A completed one has a length, validators and ranges. Anything else is an answer
without a body. Both ways read as RFC 9110 has them: coding, preconditions, range, headers, body.

A new export gets a moment to show its first rows or to fail: a statement that the database refuses is then an error
with a reason, not a body that breaks. After that moment the headers go out, and the line with the names of the columns
as soon as the query runs, so that a connection is not silent while the database sorts.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import cast
from uuid import UUID

from aiohttp import web

from streamer.errors import BadBody, BadParameter, RangeNotSatisfiable, TooEarly, Unavailable
from streamer.http.api.exports import Exports, requested_id
from streamer.http.download.compression import GzipStreams
from streamer.http.download.delivery import DownloadResponse, Part, length_of, send_followed, send_parts
from streamer.http.download.multipart import byteranges
from streamer.http.download.negotiation import (
    DownloadRequest,
    content_headers,
    not_modified_headers,
    representation_headers,
    validators,
)
from streamer.http.net.download_slots import DownloadSlots
from streamer.http.net.listener import Connection
from streamer.http.net.readiness import wait_drained
from streamer.http.target import read_query, values_of
from streamer.jobs.active import ActiveExport
from streamer.jobs.admission import Admission
from streamer.jobs.completed import CompletedCache, CompletedExport, refusal
from streamer.protocol.digest import repr_digest
from streamer.protocol.encoding import Coding
from streamer.protocol.ranges import (
    Positions,
    Slice,
    Slices,
    Unsatisfiable,
    Whole,
    content_range,
    live_content_range,
)
from streamer.spool.follower import Follower

SOURCE_TIMEOUT = 30.0  # seconds that a client waits for a source that is away or locked
FIRST_ROWS = 1.0  # seconds that a new export has to show rows or to fail, before the headers go out without either
ONE_WRITE = 256 * 1024  # bytes of a body that is read and written at once
COPIED = 1 * 1024 * 1024  # bytes of all such bodies together


class Downloads:
    def __init__(
        self,
        admission: Admission,
        sealed: CompletedCache,
        exports: Exports,
        gzip: GzipStreams,
        places: DownloadSlots,
        *,
        abandon_after: float,
    ) -> None:
        self._admission = admission
        self._sealed_exports = sealed
        self._exports = exports
        self._gzip = gzip
        self._abandon_after = abandon_after
        self._places = places
        self._room = COPIED  # bytes

    async def download(self, request: web.Request) -> web.StreamResponse:
        """`GET /exports/{id}/download`."""
        export_id = requested_id(request)
        if request.can_read_body:
            raise BadBody("a download is asked for without a request body")
        follow = _follow_wanted(request)
        asked = DownloadRequest.from_request(request)
        async with self._place(request, asked) as coding:
            live = self._admission.active(export_id)
            if live is None:
                return await self._sealed(request, asked, coding, export_id)
            if not follow:
                raise TooEarly("the export is not finished yet, and live=false")
            return await self._live(request, asked, coding, live)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """`GET /exports/csv`: an export, streamed in the request that asks for it. HEAD starts nothing."""
        wanted = await self._exports.read_request(request, besides="filename")
        asked = DownloadRequest.for_new_export(request)
        async with self._place(request, asked) as coding:
            if request.method == "HEAD":
                response = DownloadResponse(headers=content_headers(header=wanted.spec.dialect.header))
                with response.body():
                    await response.begin(request)
                return response
            live = await self._admission.submit(wanted, abandon_after=self._abandon_after)
            assert isinstance(live, ActiveExport)  # there is no key
            return await self._live(request, asked, coding, live)

    @asynccontextmanager
    async def _place(self, request: web.Request, asked: DownloadRequest) -> AsyncIterator[Coding]:
        """A place for a download, and its coding. The place is kept until the client has taken what it was given."""
        with self._places.acquire(request):
            with self._gzip.coding_for(asked) as coding:
                yield coding
            await wait_drained(request)

    async def _sealed(
        self, request: web.Request, asked: DownloadRequest, coding: Coding, export_id: UUID
    ) -> web.StreamResponse:
        """The sealed table: RFC 9110, in its order."""
        with await self._sealed_exports.acquire(export_id) as sealed:
            tags = validators(export_id, coding, sealed.last_modified)
            headers = representation_headers(asked, export_id, sealed.content, coding, tags)
            if not asked.is_modified(tags):
                return web.Response(status=304, headers=not_modified_headers(headers))
            if request.method != "HEAD":
                await self._sealed_exports.ensure_verified(sealed)
            if coding is Coding.GZIP:
                return await self._send_gzip(request, headers, sealed)
            assert sealed.export.sha256 is not None
            headers["Repr-Digest"] = repr_digest(sealed.export.sha256)
            return await self._send_selected(request, headers, sealed, asked.select(sealed.length, tags))

    async def _live(
        self, request: web.Request, asked: DownloadRequest, coding: Coding, live: ActiveExport
    ) -> web.StreamResponse:
        """The live table: what is asked is answered from what is there, or waits until it is."""
        cast("Connection", request.protocol).leave_at_eof()
        with live.followed():
            await self._first_rows(live, asked)
            if not asked.allows_chunked:
                await live.spool.end()
                return await self._sealed(request, asked, coding, live.id)
            tags = validators(live.id, coding)
            assert live.content is not None  # somebody knows its id, so there is a row
            headers = representation_headers(asked, live.id, live.content, coding, tags)
            if not asked.is_modified(tags):
                return web.Response(status=304, headers=not_modified_headers(headers))
            if live.spool.frontier:
                await self._served(request, live)
            wanted = asked.select_live(tags)
            if isinstance(wanted, Positions):
                return await self._live_range(request, asked, live, wanted, headers)
            return await self._live_whole(request, live, coding, headers)

    async def _live_range(
        self,
        request: web.Request,
        asked: DownloadRequest,
        live: ActiveExport,
        wanted: Positions,
        headers: dict[str, str],
    ) -> web.StreamResponse:
        """RFC 8673: the headers wait until the first byte that was asked for exists, or the export ends short of it."""
        if wanted.first >= len(await live.early()):
            await live.spool.moved_beyond(wanted.first)
            if live.spool.ended:
                return await self._sealed(request, asked, Coding.IDENTITY, live.id)
            await self._served(request, live)
        headers["Content-Range"] = live_content_range(wanted)
        response = DownloadResponse(status=206, headers=headers)
        stop = None if wanted.last is None else wanted.last + 1
        with Follower(live.spool, wanted.first, stop, before_first=live.ensure_served, head=live.early) as follower:
            if stop is not None and stop <= live.spool.frontier:
                await send_parts(request, response, follower, [Slice(wanted.first, stop)])
            else:
                await send_followed(request, response, follower)
        return response

    async def _live_whole(
        self, request: web.Request, live: ActiveExport, coding: Coding, headers: dict[str, str]
    ) -> web.StreamResponse:
        response = DownloadResponse(headers=headers)
        send = self._gzip.send_followed if coding is Coding.GZIP else send_followed
        with Follower(live.spool, before_first=live.ensure_served, head=live.early) as follower:
            await send(request, response, follower)
        return response

    async def _send_gzip(
        self, request: web.Request, headers: dict[str, str], sealed: CompletedExport
    ) -> web.StreamResponse:
        response = DownloadResponse(headers=headers)
        await self._gzip.send_whole(request, response, sealed, sealed.length)
        return response

    async def _send_selected(
        self,
        request: web.Request,
        headers: dict[str, str],
        sealed: CompletedExport,
        selected: Whole | Slices | Unsatisfiable,
    ) -> web.StreamResponse:
        """The whole, a slice, or several. Raises RangeNotSatisfiable."""
        if isinstance(selected, Unsatisfiable):
            raise RangeNotSatisfiable(sealed.length)
        status, parts = 200, list[Part]([Slice(0, sealed.length)])
        if isinstance(selected, Slices):
            status, parts = 206, list[Part](selected.slices)
            if len(selected.slices) == 1:
                headers["Content-Range"] = content_range(selected.slices[0], sealed.length)
            else:
                headers["Content-Type"], parts = byteranges(selected.slices, sealed.length, headers["Content-Type"])
        response = DownloadResponse(status=status, headers=headers)
        length = length_of(parts)
        small = request.method != "HEAD" and length <= min(ONE_WRITE, self._room)
        if small and (body := _in_memory(sealed, parts)) is not None:
            self._room -= length
            try:
                await response.send_at_once(request, body)
            finally:
                self._room += length
        else:
            await send_parts(request, response, sealed, parts)
        return response

    async def _served(self, request: web.Request, live: ActiveExport) -> None:
        """Before headers that a byte will follow at once: who comes in the moment of its end is told how it ended."""
        if request.method != "HEAD" and not await live.try_mark_served():
            raise refusal(await self._admission.get(live.id))

    async def _first_rows(self, live: ActiveExport, asked: DownloadRequest) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_ROWS):
                await live.spool.moved_beyond(0)
        if live.waiting_for == "source":
            await self._source_answers(live, asked)
        if live.spool.broken.done():
            raise refusal(await self._admission.get(live.id))

    async def _source_answers(self, live: ActiveExport, asked: DownloadRequest) -> None:
        """Raises Unavailable if that takes too long; the export goes on waiting."""
        try:
            async with asyncio.timeout(SOURCE_TIMEOUT):
                await live.begun()
        except TimeoutError as error:
            raise Unavailable(
                "the source database cannot be read at the moment; the export waits for it",
                headers=asked.new_export_headers(live.id),
            ) from error


def _in_memory(sealed: CompletedExport, parts: Sequence[Part]) -> bytes | bytearray | None:
    """A small body, copied at once: no thread, no task, no sendfile. None if that would wait for the disk."""
    read = [part if isinstance(part, bytes) else sealed.read(part.start, part.length) for part in parts]
    found = [piece for piece in read if piece is not None]
    if len(found) < len(read):
        return None
    return found[0] if len(found) == 1 else b"".join(found)


def _follow_wanted(request: web.Request) -> bool:
    """Whether an unfinished export is to be followed: `live`, by default true."""
    asked = values_of(read_query(request), "live") or ["true"]
    if asked not in (["true"], ["false"]):
        raise BadParameter("live", "must be true or false, once")
    return asked == ["true"]
