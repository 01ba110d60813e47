"""Downloads of exports that are still being written. They are followed to the end.

A new export first has some time to show rows or to fail: if the database refuses the statement, the response is an
error with a reason, not a body that breaks. After that time the headers are sent, and the header line of the CSV as
soon as the query runs, so that a connection is not silent while the database sorts.
"""

import asyncio
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from aiohttp import web

from streamer.coding import Coding
from streamer.errors import Unavailable
from streamer.http.download.completed import CompletedDownloads
from streamer.http.download.delivery import DownloadResponse, send_followed, send_parts
from streamer.http.download.negotiation import (
    DownloadRequest,
    not_modified_headers,
    representation_headers,
    validators,
)
from streamer.jobs.active import ActiveExport
from streamer.jobs.admission import Admission
from streamer.jobs.completed import refusal
from streamer.model import EVERYBODY, Representation
from streamer.protocol.disposition import ContentDescription
from streamer.protocol.ranges import Positions, Slice, live_content_range
from streamer.spool.follower import Follower
from streamer.spool.spool import Spool


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadTimes:
    """How long a download waits before its headers are sent, in seconds."""

    source: float = 30.0  # for a source that cannot be reached or is locked; then the answer is an error
    first_rows: float = 1.0  # before the headers are sent without rows
    compressed: float = 30.0  # for a compressed file: to be begun, to be compared, or for HEAD to have its length


class Followed(Protocol):
    """What is being written and can be followed: an export, or a compressed representation of one."""

    @property
    def id(self) -> UUID:
        """The export's."""
        ...

    @property
    def coding(self) -> Coding: ...

    @property
    def row(self) -> Representation | None:
        """None for an export."""
        ...

    @property
    def spool(self) -> Spool: ...

    @property
    def content(self) -> ContentDescription | None: ...

    def followed(self) -> AbstractContextManager[None]: ...

    async def early(self) -> bytes: ...

    async def ensure_served(self) -> None: ...

    async def try_mark_served(self) -> bool: ...


class LiveDownloads:
    """Sends exports while they grow."""

    def __init__(self, admission: Admission, completed: CompletedDownloads, times: DownloadTimes) -> None:
        self._admission = admission
        self._completed = completed
        self._times = times

    async def follow(self, download: DownloadRequest, followed: Followed) -> web.StreamResponse:
        """Sends what is being written, and has had time to show rows. It must be kept from being abandoned.

        Raises PreconditionFailed, and the error of the export if it has ended without a file.
        """
        if followed.spool.broken.done() or not download.allows_chunked:
            await followed.spool.end()
            return await self._send_ended(download, followed)
        return await self._send_live(download, followed)

    async def _send_ended(self, download: DownloadRequest, followed: Followed) -> web.StreamResponse:
        """Sends the file, which another server may have written. A client that has just created it learns its id."""
        try:
            return await self._completed.send(download, followed.coding, followed.id, EVERYBODY)
        except Unavailable as error:
            raise Unavailable(error.sentence, headers=download.new_export_headers(followed.id)) from error

    async def _send_live(self, download: DownloadRequest, followed: Followed) -> web.StreamResponse:
        tags = validators(download, followed.id, followed.row)
        assert followed.content is not None  # a client knows its id, so there is a row
        headers = representation_headers(download, followed.id, followed.content, followed.coding, tags)
        if not download.is_modified(tags):
            return web.Response(status=304, headers=not_modified_headers(headers))
        if followed.spool.frontier:
            await self._mark_served(download, followed)
        selected = download.select_live(tags)
        if isinstance(selected, Positions):
            return await self._send_range(download, followed, selected, headers)
        return await self._send_whole(download, followed, headers)

    async def _send_range(
        self, download: DownloadRequest, followed: Followed, selected: Positions, headers: dict[str, str]
    ) -> web.StreamResponse:
        """Sends a range (RFC 8673). The headers wait until its first byte exists, or until the export has ended."""
        if selected.first >= len(await followed.early()):
            await followed.spool.moved_beyond(selected.first)
            if followed.spool.ended:
                return await self._completed.send(download, followed.coding, followed.id, EVERYBODY)
            await self._mark_served(download, followed)
        response = DownloadResponse(status=206, headers={**headers, "Content-Range": live_content_range(selected)})
        stop = None if selected.last is None else selected.last + 1
        with _follower(followed, selected.first, stop) as follower:
            if stop is not None and stop <= followed.spool.frontier:
                await send_parts(download.request, response, follower, [Slice(selected.first, stop)])
            else:
                await send_followed(download.request, response, follower)
        return response

    async def _send_whole(
        self, download: DownloadRequest, followed: Followed, headers: dict[str, str]
    ) -> web.StreamResponse:
        response = DownloadResponse(headers=headers)
        with _follower(followed) as follower:
            await send_followed(download.request, response, follower)
        return response

    async def _mark_served(self, download: DownloadRequest, followed: Followed) -> None:
        """Called before headers that a byte follows at once. Raises the error of the export if it has just failed."""
        if not download.is_head and not await followed.try_mark_served():
            raise refusal(await self._admission.get(followed.id, EVERYBODY))

    async def wait_first_rows(self, download: DownloadRequest, live: ActiveExport) -> None:
        """Gives a new export some time to show rows or to fail.

        Raises Unavailable if the source cannot be read for too long, and the error of the export if it has failed.
        """
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


def _follower(followed: Followed, start: int = 0, stop: int | None = None) -> Follower:
    return Follower(followed.spool, start, stop, before_first=followed.ensure_served, head=followed.early)
