"""The body writers. What they promise: a body is whole, or the connection breaks in a way that every client can see.

In a chunked body the frame is ours, chunk head, bytes, line end, and the final chunk is aiohttp's. A `DownloadResponse`
refuses to write that final chunk until its body is known to be whole, so no path through a handler, foreseen or not,
can end a truncated body well. Instead its connection is closed (FIN): clients see that the final chunk is missing, and
wget comes back for the rest. Within a body of known length the connection is reset.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from aiohttp import web

from streamer.errors import ClientError
from streamer.http.net.body_sender import Readable
from streamer.http.net.chunked_sender import ChunkedSender
from streamer.http.net.sized_sender import sized_sender
from streamer.protocol.ranges import Slice
from streamer.spool.follower import Extent, Follower, TruncatedError

log = logging.getLogger(__name__)

Part = bytes | Slice
"""A piece of a body: bytes as they are, or a slice of the file."""


class DownloadResponse(web.StreamResponse):
    """A response whose end can only be written once its body is whole."""

    whole = False

    @contextmanager
    def body(self) -> Iterator[None]:
        """The body is written within, and is whole if nothing was raised. A break is told by the connection alone."""
        try:
            yield
        except (TruncatedError, ClientError) as error:
            log.warning("a download was broken off: %s", error)
        except ConnectionError:
            log.info("a client left its download")
        except TimeoutError:
            log.info("a client stopped reading its download")
        else:
            self.whole = True

    async def begin(self, request: web.Request) -> bool:
        """Sends the headers. False for HEAD, to which they are the whole answer: then no file is touched."""
        await self.prepare(request)
        return request.method != "HEAD"

    async def send_at_once(self, request: web.Request, body: bytes | bytearray) -> None:
        """A body in memory. It is not kept: aiohttp remembers a connection's last response until the next."""
        self.content_length = len(body)
        with self.body():
            await self.prepare(request)
            await super().write_eof(cast("bytes", body))

    async def write_eof(self, data: bytes = b"") -> None:
        if not self.whole:
            raise ConnectionResetError("the body is not whole")
        await super().write_eof(data)


async def send_followed(request: web.Request, response: DownloadResponse, follower: Follower) -> None:
    """What the follower gives, each extent in chunks as soon as it is published; before them what is known already."""
    response.enable_chunked_encoding()
    with response.body():
        if await response.begin(request):
            with ChunkedSender(request, follower) as sender:
                await sender.write(await follower.early())
                async for extent in follower:
                    await sender.send(extent)


async def send_parts(request: web.Request, response: DownloadResponse, source: Readable, parts: Sequence[Part]) -> None:
    """A body of known length."""
    response.content_length = length_of(parts)
    with response.body():
        if await response.begin(request):
            with sized_sender(request, source) as sender:
                for part in parts:
                    if isinstance(part, bytes):
                        await sender.write(part)
                    else:
                        await sender.send(Extent(part.start, part.length))


def length_of(parts: Sequence[Part]) -> int:
    """In bytes."""
    return sum(len(part) if isinstance(part, bytes) else part.length for part in parts)
