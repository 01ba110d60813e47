"""Downloads of completed exports, which have a length, validators and ranges (RFC 9110)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from aiohttp import web

from streamer.coding import Coding
from streamer.errors import RangeNotSatisfiable
from streamer.http.download.delivery import DownloadResponse, Part, length_of, send_parts
from streamer.http.download.multipart import byteranges
from streamer.http.download.negotiation import (
    DownloadRequest,
    ensure_same_bytes,
    not_modified_headers,
    representation_headers,
    validators,
)
from streamer.jobs.completed import CompletedCache, CompletedExport
from streamer.model import Viewer
from streamer.protocol.digest import repr_digest
from streamer.protocol.ranges import Slice, Slices, Unsatisfiable, Whole, content_range

MAX_COPIED_BODY = 256 * 1024  # bytes of a body that is read into memory and written at once
MAX_COPIED = 1 * 1024 * 1024  # bytes of all such bodies together


class CompletedDownloads:
    """Sends completed exports. Bodies of a few bytes are copied, without a thread, a task or sendfile."""

    def __init__(self, cache: CompletedCache) -> None:
        self._cache = cache
        self._copied = 0  # bytes of all bodies in memory

    async def send(
        self, download: DownloadRequest, coding: Coding, export_id: UUID, viewer: Viewer
    ) -> web.StreamResponse:
        """Sends the export, or as much of it as the request selects.

        Raises RangeNotSatisfiable, PreconditionFailed and ExportGone, and as `CompletedCache.acquire` if there is no
        such file.
        """
        with await self._cache.acquire(export_id, viewer, coding) as export:
            ensure_same_bytes(download, export.representation)
            tags = validators(download, export_id, export.representation, export.last_modified)
            headers = representation_headers(download, export_id, export.content, coding, tags)
            if not download.is_modified(tags):
                return web.Response(status=304, headers=not_modified_headers(headers))
            if not download.is_head:
                await self._cache.ensure_verified(export)
            headers["Repr-Digest"] = repr_digest(export.sha256)
            return await self._send_selected(download, headers, export, download.select(export.length, tags))

    async def _send_selected(
        self,
        download: DownloadRequest,
        headers: dict[str, str],
        export: CompletedExport,
        selected: Whole | Slices | Unsatisfiable,
    ) -> web.StreamResponse:
        """Sends the whole, a slice, or several. Raises RangeNotSatisfiable."""
        if isinstance(selected, Unsatisfiable):
            raise RangeNotSatisfiable(export.length)
        if isinstance(selected, Slices):
            parts = _select_slices(selected.slices, export.length, headers)
            response = DownloadResponse(status=206, headers=headers)
        else:
            parts = [Slice(0, export.length)]
            response = DownloadResponse(headers=headers)
        await self._send_parts(download, response, export, parts)
        return response

    async def _send_parts(
        self, download: DownloadRequest, response: DownloadResponse, export: CompletedExport, parts: Sequence[Part]
    ) -> None:
        length = length_of(parts)
        if not download.is_head and self._may_copy(length) and (body := _copy(export, parts)) is not None:
            with self._count_copied(length):
                await response.send_at_once(download.request, body)
        else:
            await send_parts(download.request, response, export, parts)

    def _may_copy(self, length: int) -> bool:
        return length <= min(MAX_COPIED_BODY, MAX_COPIED - self._copied)

    @contextmanager
    def _count_copied(self, length: int) -> Iterator[None]:
        self._copied += length
        try:
            yield
        finally:
            self._copied -= length


def _select_slices(slices: Sequence[Slice], length: int, headers: dict[str, str]) -> Sequence[Part]:
    """Returns the parts of a body with these slices of `length` bytes, and adds its header fields to `headers`."""
    if len(slices) == 1:
        headers["Content-Range"] = content_range(slices[0], length)
        return slices
    headers["Content-Type"], parts = byteranges(slices, length, headers["Content-Type"])
    return parts


def _copy(export: CompletedExport, parts: Sequence[Part]) -> bytes | bytearray | None:
    """Returns a body in memory; None if reading it would wait for the disk."""
    pieces = [part if isinstance(part, bytes) else export.read(part.start, part.length) for part in parts]
    cached = [piece for piece in pieces if piece is not None]
    if len(cached) < len(pieces):
        return None
    return cached[0] if len(cached) == 1 else b"".join(cached)
