"""The bytes of one representation of an export, from an offset to the end, over as many connections as that takes.

Each connection requests the bytes that are missing, and its response is checked before any byte of it is passed on. If
the connection breaks, is refused or times out, the next one continues after the back-off of `RetryPolicy`. The download
ends where HTTP's framing ends the body (aiohttp raises ClientPayloadError for a body without its final chunk) and the
server confirms it; `verify` then checks that the bytes were the right ones.
"""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import aiohttp

from streamer.client.errors import ReadTimeout, Transient, VerificationFailed
from streamer.client.remote import Remote
from streamer.client.representation import Representation
from streamer.client.transport import translating_errors
from streamer.coding import Coding


class Download:
    """Follows a representation from `offset` to its end, or to `stop`.

    `etag` is that of the bytes that are there already. None: it is not known before the first response.
    """

    def __init__(
        self, remote: Remote, coding: Coding, etag: str | None, offset: int = 0, stop: int | None = None
    ) -> None:
        self._remote = remote
        self._coding = coding
        self.etag = etag
        self._offset = offset
        self._stop = stop
        self._stack = AsyncExitStack()
        self._response: aiohttp.ClientResponse | None = None
        self._skip = 0  # bytes that the body repeats, because the range was not honoured
        self.announced_sha256: str | None = None  # by Repr-Digest
        self._export_bytes = 0  # of the CSV, in the last status
        self.final: Representation | None = None  # the completed one, after its last byte

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Raises GaveUp, and every StreamerError that a retry cannot solve."""
        try:
            while chunk := await self._next_with_retries():
                self._offset += len(chunk)
                if self._stop is not None and self._offset > self._stop:
                    raise VerificationFailed(f"received {self._offset - self._stop} bytes more than requested")
                yield chunk
        finally:
            await self._disconnect()
        if self._stop not in (None, self._offset):
            raise VerificationFailed(f"the bytes from {self._offset} to {self._stop} are missing")

    async def _next_with_retries(self) -> bytes:
        try:
            return await self._next()  # a retry object for each chunk is not needed
        except Transient as failure:
            first: Transient | None = failure

        async def attempt() -> bytes:
            nonlocal first
            if failure := first:  # counts as the first attempt
                first = None
                raise failure
            return await self._next()

        chunk: bytes = await self._remote.retry_policy.retrying(self._remote.listener)(attempt)
        return chunk

    async def _next(self) -> bytes:
        """Returns the next bytes; b"" at the end."""
        while True:
            try:
                chunk = await self._read() if self._response or await self._open() else b""
                if chunk == b"" and self._stop is None:
                    await self._check_end()
                if chunk is not None:
                    return chunk
            except ReadTimeout:
                await self._disconnect()
                if not await self._has_no_further_bytes():
                    raise
            except BaseException:
                await self._disconnect()
                raise

    async def _open(self) -> bool:
        """Returns False if there are no bytes left."""
        current = await self._current()
        opened = await self._remote.open(self._stack, current, etag=self.etag, offset=self._offset, stop=self._stop)
        if opened is None:
            await self._disconnect()
            return False
        self._response, body = opened
        self.etag = body.etag
        self._skip = self._offset - body.start
        self._check_sha256(body.sha256)
        return True

    async def _read(self) -> bytes | None:
        """Returns None if all received bytes were skipped; b"" at the end of the body."""
        assert self._response is not None
        with translating_errors(self._remote.address.server):
            chunk = await self._response.content.readany()
        if not chunk:
            await self._disconnect()
            if self._skip:
                raise VerificationFailed(f"the export ends {self._skip} bytes before the end of the received bytes")
            return b""
        skipped = min(self._skip, len(chunk))
        self._skip -= skipped
        return chunk[skipped:] or None

    async def _check_end(self) -> None:
        """A body that the end of its connection delimits may be cut anywhere: only the server knows its length."""
        current = await self._current()
        if not current.completed or self._offset < current.bytes:
            raise Transient(f"the download ended after {self._offset} bytes, but the export is longer")
        self.final = current

    async def _has_no_further_bytes(self) -> bool:
        """Returns whether the export itself has no bytes yet beyond those that were received.

        The status does not say how long a growing compressed file is, but it grows only if the export does.
        """
        before = self._export_bytes
        current = await self._current()
        if self._coding is Coding.IDENTITY:
            return not current.completed and current.bytes <= self._offset
        return not current.export.completed and self._export_bytes == before

    async def _current(self) -> Representation:
        status = await self._remote.status_once()
        status.raise_if_ended_badly()
        self._export_bytes = status.progress.bytes
        return Representation.of(status, self._coding)

    def _check_sha256(self, announced: str | None) -> None:
        if announced and self.announced_sha256 and announced != self.announced_sha256:
            raise VerificationFailed("the Repr-Digest of the export changed during the download")
        self.announced_sha256 = announced or self.announced_sha256

    async def _disconnect(self) -> None:
        self._response = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()


def verify(final: Representation, *, length: int, sha256: str, announced: str | None) -> None:
    """Compares the received bytes with the completed representation. Raises VerificationFailed.

    `sha256` and `announced`, which is the Repr-Digest of the responses, are in hexadecimal.
    """
    if final.sha256 is None:
        raise VerificationFailed("the server sent no SHA-256 of the export")
    if length != final.bytes:
        raise VerificationFailed(f"received {length} bytes, but the export has {final.bytes}")
    if announced not in (None, final.sha256):
        raise VerificationFailed("the SHA-256 in Repr-Digest does not match the one in the status of the export")
    if sha256 != final.sha256:
        raise VerificationFailed(f"the SHA-256 does not match the server's: received {sha256}, expected {final.sha256}")
