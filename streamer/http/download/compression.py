"""gzip on the fly: compressed while it is sent, in threads, a window at a time.

ISA-L at level 1 is faster than most networks. A live stream is flushed whenever its follower has caught up, so that the
client can decompress a row as soon as it is published. A stream holds one window and its compressed bytes, and there
are at most `capacity` streams at once.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO, cast

from aiohttp import web
from isal import isal_zlib

from streamer.coding import Coding
from streamer.http.download.delivery import DownloadResponse
from streamer.http.download.negotiation import DownloadRequest
from streamer.http.net.body_sender import FILE_IS_SHORTER, Readable, in_thread
from streamer.http.net.chunked_sender import ChunkedSender
from streamer.spool.follower import Extent, Follower, TruncatedError

WINDOW = 32 * 1024  # bytes of the export that one stream holds at a time
MIN_WRITE = 64 * 1024  # compressed bytes that are collected before they are sent
MAX_HELD = WINDOW + MIN_WRITE + WINDOW  # bytes of one stream, if its bytes cannot be compressed
LEVEL = 1
GZIP_FORMAT = 16 + 15  # zlib's code for a gzip header and the largest window


class GzipStreams:
    """The gzip streams of this server, at most `capacity` at once."""

    def __init__(self, executor: Executor, capacity: int) -> None:
        self._executor = executor
        self._free = capacity

    @contextmanager
    def coding_for(self, download: DownloadRequest) -> Iterator[Coding]:
        """Chooses the coding of the response. If it is gzip, one stream is taken while the context is open.

        Raises as `DownloadRequest.coding`.
        """
        coding = download.coding(gzip_available=self._free > 0)
        taken = coding is Coding.GZIP
        self._free -= taken
        try:
            yield coding
        finally:
            self._free += taken

    async def send_followed(self, request: web.Request, response: DownloadResponse, follower: Follower) -> None:
        """Sends a live export from its start to its end."""
        response.enable_chunked_encoding()
        with response.body():
            if await response.begin(request):
                with ChunkedSender(request, follower) as sender:
                    stream = _Stream(self._executor, sender, follower)
                    await stream.begin(await follower.early())
                    async for extent in follower:
                        await stream.send(extent, flush=follower.caught_up)
                    await stream.end()

    async def send_whole(self, request: web.Request, response: DownloadResponse, source: Readable, length: int) -> None:
        """Sends `length` bytes of a file that no longer changes."""
        response.enable_chunked_encoding()
        with response.body():
            if await response.begin(request):
                with ChunkedSender(request, source) as sender:
                    stream = _Stream(self._executor, sender, source)
                    await stream.send(Extent(0, length), flush=False)
                    await stream.end()


class _Stream:
    """One gzip stream."""

    def __init__(self, executor: Executor, sender: ChunkedSender, source: Readable) -> None:
        self._executor = executor
        self._sender = sender
        self._source = source
        self._compressor = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, GZIP_FORMAT)

    async def begin(self, early: bytes) -> None:
        """Sends the early bytes, which are few, so that the client can decompress them at once."""
        if early:
            await self._sender.write(self._compressor.compress(early) + self._compressor.flush(isal_zlib.Z_SYNC_FLUSH))

    async def send(self, extent: Extent, *, flush: bool) -> None:
        """Sends all of the extent. With `flush` the client can then decompress all that was sent."""
        offset, stop = extent.offset, extent.offset + extent.length
        while offset < stop:
            compress = partial(self._compress, self._source.file, offset, stop, flush)
            piece, offset = await in_thread(self._executor, compress)
            await self._sender.write(piece)

    async def end(self) -> None:
        await self._sender.write(self._compressor.flush())

    def _compress(self, file: BinaryIO, offset: int, stop: int, flush: bool) -> tuple[bytes, int]:
        """Compresses bytes from `offset` on, in a thread. Returns the result, and the offset of the next byte."""
        compressed = bytearray()
        while offset < stop and len(compressed) < MIN_WRITE:
            size = min(WINDOW, stop - offset)
            window = os.pread(file.fileno(), size, offset)
            if len(window) < size:
                raise TruncatedError(FILE_IS_SHORTER)
            compressed += self._compressor.compress(window)
            offset += len(window)
        if flush and offset == stop:
            compressed += self._compressor.flush(isal_zlib.Z_SYNC_FLUSH)
        return cast("bytes", compressed), offset
