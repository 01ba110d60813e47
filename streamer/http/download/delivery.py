"""Writes the bodies of downloads. A body is whole, or the connection breaks in a way that every client notices.

`ChunkedSender` writes all chunks of a chunked body but the final one, which aiohttp writes. `DownloadResponse` refuses
to write it until the body is known to be whole, so a handler cannot end a truncated body normally, whatever it raises
or returns. Instead the connection is closed (FIN): clients notice that the final chunk is missing, and wget retries.
Within a body of known length the connection is reset.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from aiohttp import web

from streamer.errors import ClientError
from streamer.http.aiohttp_internals import GuardedResponse
from streamer.http.net.body_sender import Readable
from streamer.http.net.chunked_sender import ChunkedSender
from streamer.http.net.sized_sender import sized_sender
from streamer.protocol.ranges import Slice
from streamer.spool.follower import Extent, Follower, TruncatedError

log = logging.getLogger(__name__)

Part = bytes | Slice
"""A part of a body: bytes in memory, or a slice of the file."""


class DownloadResponse(GuardedResponse):
    """The response to a download."""

    @contextmanager
    def body(self) -> Iterator[None]:
        """Marks the body as whole if the context, in which it is written, is left normally.

        An error of the body is logged and ends here; the client notices it by its connection.
        """
        try:
            yield
        except (TruncatedError, ClientError) as error:
            log.warning("a download was aborted: %s", error)
        except ConnectionError:
            log.info("a client disconnected during its download")
        except TimeoutError:
            log.info("a client stopped reading its download")
        else:
            self.whole = True

    async def begin(self, request: web.Request) -> bool:
        """Sends the headers. Returns False for HEAD, which has no body: then no file is read."""
        await self.prepare(request)
        return request.method != "HEAD"

    async def send_at_once(self, request: web.Request, body: bytes | bytearray) -> None:
        """Sends the headers and a body in memory, without keeping it: aiohttp keeps the last response for a while."""
        self.content_length = len(body)
        with self.body():
            await self.prepare(request)
            await self.write_only(body)


async def send_followed(request: web.Request, response: DownloadResponse, follower: Follower) -> None:
    """Sends the early bytes of a live export, and each further extent in chunks as soon as it is published."""
    response.enable_chunked_encoding()
    with response.body():
        if await response.begin(request):
            with ChunkedSender(request, follower) as sender:
                await sender.write(await follower.early())
                async for extent in follower:
                    await sender.send(extent)


async def send_parts(request: web.Request, response: DownloadResponse, source: Readable, parts: Sequence[Part]) -> None:
    """Sends a body of known length."""
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
    """Returns the length of all parts in bytes."""
    return sum(len(part) if isinstance(part, bytes) else part.length for part in parts)
