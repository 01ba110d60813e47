"""gzip on the fly: made while it is sent, in threads, a window at a time.

ISA-L at level 1 is faster than the network it saves. A live stream is flushed whenever its follower has caught up, so
that a row is readable as soon as it is published; between two flushes the compressor keeps what it likes. A stream
holds one window and what became of it, and there are at most `capacity` streams at once.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO

from aiohttp import web
from isal import isal_zlib

from streamer.http.delivery import DownloadResponse, Line, Readable, in_thread
from streamer.http.negotiation import Asked
from streamer.protocol.encoding import Coding
from streamer.spool.follower import Extent, Follower, TruncatedError, extents

WINDOW = 64 * 1024  # bytes of the export that one stream holds at a time
LEVEL = 1
GZIP_FORMAT = 16 + 15  # zlib's code for a gzip header and the largest history


class GzipStreams:
    """The gzip streams of this server."""

    def __init__(self, executor: Executor, capacity: int) -> None:
        self._executor = executor
        self._free = capacity

    @contextmanager
    def coding_for(self, asked: Asked) -> Iterator[Coding]:
        """The coding of the answer, and a place among the streams for as long as it takes. Raises as `Asked.coding`."""
        coding = asked.coding(gzip_available=self._free > 0)
        taken = coding is Coding.GZIP
        self._free -= taken
        try:
            yield coding
        finally:
            self._free += taken

    async def send_followed(self, request: web.Request, response: DownloadResponse, follower: Follower) -> None:
        """A live export from its start to its end."""
        response.enable_chunked_encoding()
        with response.body():
            if await response.begin(request):
                stream = _Stream(self._executor, request, response, follower)
                async for extent in follower:
                    await stream.send(extent, flush=follower.caught_up)
                await stream.end()

    async def send_whole(self, request: web.Request, response: DownloadResponse, source: Readable, length: int) -> None:
        """`length` bytes of a file that no longer changes."""
        response.enable_chunked_encoding()
        with response.body():
            if await response.begin(request):
                stream = _Stream(self._executor, request, response, source)
                for extent in extents(0, length, WINDOW):
                    await stream.send(extent, flush=False)
                await stream.end()


class _Stream:
    def __init__(self, executor: Executor, request: web.Request, response: DownloadResponse, source: Readable) -> None:
        self._executor = executor
        self._source = source
        self._line = Line(request, source)
        self._response = response
        self._compressor = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, GZIP_FORMAT)

    async def send(self, extent: Extent, *, flush: bool) -> None:
        piece = await in_thread(self._executor, partial(self._compress, self._source.file, extent, flush))
        await self._line.complete(self._response.write(piece))

    async def end(self) -> None:
        await self._line.complete(self._response.write(self._compressor.flush()))

    def _compress(self, file: BinaryIO, extent: Extent, flush: bool) -> bytes:
        window = os.pread(file.fileno(), extent.length, extent.offset)
        if len(window) < extent.length:
            raise TruncatedError("the file of the export is shorter than it was")
        piece = self._compressor.compress(window)
        return piece + self._compressor.flush(isal_zlib.Z_SYNC_FLUSH) if flush else piece
