"""gzip on the fly: made while it is sent, in threads, a window at a time.

ISA-L at level 1 is faster than the network it saves. A live stream is flushed whenever its follower has caught up, so
that a row is readable as soon as it is published; between two flushes the compressor keeps what it likes. A stream
holds one window and a little of what became of it, and there are at most `capacity` streams at once.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO, cast

from aiohttp import web
from isal import isal_zlib

from streamer.http.download.delivery import DownloadResponse
from streamer.http.download.negotiation import DownloadRequest
from streamer.http.net.body_sender import FILE_IS_SHORTER, Readable, in_thread
from streamer.http.net.chunked_sender import ChunkedSender
from streamer.protocol.encoding import Coding
from streamer.spool.follower import Extent, Follower, TruncatedError

WINDOW = 32 * 1024  # bytes of the export that one stream holds at a time
ENOUGH = 64 * 1024  # bytes of what became of them, before they are sent
MAX_HELD = WINDOW + ENOUGH + WINDOW  # bytes of one stream, where nothing gets smaller
LEVEL = 1
GZIP_FORMAT = 16 + 15  # zlib's code for a gzip header and the largest history


class GzipStreams:
    """The gzip streams of this server."""

    def __init__(self, executor: Executor, capacity: int) -> None:
        self._executor = executor
        self._free = capacity

    @contextmanager
    def coding_for(self, asked: DownloadRequest) -> Iterator[Coding]:
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
                with ChunkedSender(request, follower) as line:
                    stream = _Stream(self._executor, line, follower)
                    await stream.begin(await follower.early())
                    async for extent in follower:
                        await stream.send(extent, flush=follower.caught_up)
                    await stream.end()

    async def send_whole(self, request: web.Request, response: DownloadResponse, source: Readable, length: int) -> None:
        """`length` bytes of a file that no longer changes."""
        response.enable_chunked_encoding()
        with response.body():
            if await response.begin(request):
                with ChunkedSender(request, source) as line:
                    stream = _Stream(self._executor, line, source)
                    await stream.send(Extent(0, length), flush=False)
                    await stream.end()


class _Stream:
    def __init__(self, executor: Executor, line: ChunkedSender, source: Readable) -> None:
        self._executor = executor
        self._source = source
        self._line = line
        self._compressor = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, GZIP_FORMAT)

    async def begin(self, head: bytes) -> None:
        """The first bytes, which are few, and which the client is to read at once."""
        if head:
            await self._line.write(self._compressor.compress(head) + self._compressor.flush(isal_zlib.Z_SYNC_FLUSH))

    async def send(self, extent: Extent, *, flush: bool) -> None:
        offset, stop = extent.offset, extent.offset + extent.length
        while offset < stop:
            compress = partial(self._compress, self._source.file, offset, stop, flush)
            piece, offset = await in_thread(self._executor, compress)
            await self._line.write(piece)

    async def end(self) -> None:
        await self._line.write(self._compressor.flush())

    def _compress(self, file: BinaryIO, offset: int, stop: int, flush: bool) -> tuple[bytes, int]:
        """In a thread: what became of the next bytes, and where those after them begin."""
        made = bytearray()
        while offset < stop and len(made) < ENOUGH:
            size = min(WINDOW, stop - offset)
            window = os.pread(file.fileno(), size, offset)
            if len(window) < size:
                raise TruncatedError(FILE_IS_SHORTER)
            made += self._compressor.compress(window)
            offset += len(window)
        if flush and offset == stop:
            made += self._compressor.flush(isal_zlib.Z_SYNC_FLUSH)
        return cast("bytes", made), offset
