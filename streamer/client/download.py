"""The bytes of one export, from an offset to the end, over as many connections as that takes.

Each connection requests the bytes that are missing, and its response is checked before any byte of it is passed on. If
the connection breaks, is refused or times out, the next one continues after the back-off of `RetryPolicy`. The download
ends where HTTP's framing ends the body (aiohttp raises ClientPayloadError for a body without its final chunk) and the
server confirms it; `verify` then checks that the bytes were the right ones.
"""

import hashlib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Protocol

import aiohttp

from streamer.client.address import Address
from streamer.client.answers import Body, read_answer, unsatisfied_length
from streamer.client.errors import Silence, Transient, VerificationFailed
from streamer.client.progress import ProgressListener
from streamer.client.retries import RetryPolicy
from streamer.client.status import ExportStatus, read_json
from streamer.client.transport import PIECE_BUFFER, READ_BUFFER, Transport, raise_refusal, translated
from streamer.protocol.ranges import Slice


class Digest(Protocol):
    """What hashlib makes."""

    def update(self, content: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


def new_digest() -> Digest:
    return hashlib.sha256()


class Remote:
    """One export, as the server tells of it."""

    def __init__(self, wire: Transport, address: Address, patience: RetryPolicy, watcher: ProgressListener) -> None:
        self._wire = wire
        self.address = address
        self.patience = patience
        self.watcher = watcher

    async def status(self) -> ExportStatus:
        """Asks until there is an answer. Raises GaveUp, ExportGone and Refused."""
        found: ExportStatus = await self.patience.retrying(self.watcher)(self.status_once)
        return found

    async def status_once(self) -> ExportStatus:
        url = self.address.status
        status = read_json(await self._wire.json("GET", url), ExportStatus, url)
        self.watcher.status(status)
        return status

    async def living_status(self) -> ExportStatus:
        """The status, of an export that can be downloaded, now or later. Raises ExportFailed and ExportGone, too."""
        status = await self.status()
        status.raise_if_ended_badly()
        return status

    async def cancel(self) -> None:
        """Raises ExportGone if there never was such an export."""
        await self._tell("POST", f"{self.address.resource}/cancel")

    async def delete(self) -> None:
        """Raises ExportGone if there never was such an export."""
        await self._tell("DELETE", self.address.resource)

    async def _tell(self, method: str, url: str) -> None:
        async def ask() -> None:
            await self._wire.json(method, url)

        await self.patience.retrying(self.watcher)(ask)

    async def open(
        self, stack: AsyncExitStack, *, etag: str, offset: int, conditional: bool, stop: int | None = None
    ) -> tuple[aiohttp.ClientResponse, Body] | None:
        """A connection that gives the bytes from `offset` on, to the end or to `stop`; None if there are none.

        RFC 9110, 13.1.5: `conditional` sends If-Range. While an export grows that is not done: its range would be
        refused (a browser could not read it), and the answer's ETag says the same. Raises as `raise_refusal` does.
        """
        headers = {}
        if offset or stop is not None:
            headers["Range"] = f"bytes={offset}-{'' if stop is None else stop - 1}"
            if conditional:
                headers["If-Range"] = etag
        buffer = READ_BUFFER if stop is None else PIECE_BUFFER
        asked = self._wire.request("GET", self.address.download, headers=headers, read_bufsize=buffer)
        response = await stack.enter_async_context(asked)
        if response.status == 416 and (length := unsatisfied_length(response.headers)) is not None:
            if length != offset:
                raise VerificationFailed(f"{offset} bytes are here, and the export has {length}")
            return None
        await raise_refusal(response)
        wanted = None if stop is None else Slice(offset, stop)
        return response, read_answer(response.status, response.headers, etag=etag, wanted=wanted, offset=offset)


class Download:
    """Follows an export to its end, or to `stop`. `etag` is that of its bytes; those before `offset` are here."""

    def __init__(self, remote: Remote, etag: str, offset: int = 0, stop: int | None = None) -> None:
        self._remote = remote
        self._etag = etag
        self._offset = offset
        self._stop = stop
        self._stack = AsyncExitStack()
        self._response: aiohttp.ClientResponse | None = None
        self._surplus = 0  # bytes that come once more, because a range was not honoured
        self._failure: Transient | None = None
        self.named_sha256: str | None = None
        self.final: ExportStatus | None = None  # of the completed export, once its last byte is here

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Raises GaveUp, and everything that no patience helps against."""
        try:
            while chunk := await self._patiently():
                self._offset += len(chunk)
                if self._stop is not None and self._offset > self._stop:
                    raise VerificationFailed(f"more bytes came than were asked for: {self._offset - self._stop}")
                yield chunk
        finally:
            await self._disconnect()
        if self._stop not in (None, self._offset):
            raise VerificationFailed(f"the bytes from {self._offset} to {self._stop} did not come")

    async def _patiently(self) -> bytes:
        """What `_next` gives, at the first or at a later try."""
        try:
            return await self._next()
        except Transient as failure:
            self._failure = failure
        chunk: bytes = await self._remote.patience.retrying(self._remote.watcher)(self._try_again)
        return chunk

    async def _try_again(self) -> bytes:
        """The failure at hand is the first that counts."""
        if failure := self._failure:
            self._failure = None
            raise failure
        return await self._next()

    async def _next(self) -> bytes:
        """The next bytes; nothing at the end."""
        while True:
            try:
                chunk = await self._read() if self._response or await self._open() else b""
                if chunk == b"" and self._stop is None:
                    await self._check_end()
                if chunk is not None:
                    return chunk
            except Silence:
                await self._disconnect()
                if not await self._nothing_yet():
                    raise
            except BaseException:
                await self._disconnect()
                raise

    async def _open(self) -> bool:
        """Whether there is anything left."""
        status = await self._remote.status_once()
        status.raise_if_ended_badly()
        opened = await self._remote.open(
            self._stack, etag=self._etag, offset=self._offset, conditional=status.completed, stop=self._stop
        )
        if opened is None:
            await self._disconnect()
            return False
        self._response, body = opened
        self._surplus = self._offset - body.start
        self._note_sha256(body.sha256)
        return True

    async def _read(self) -> bytes | None:
        """None if what came is there already; nothing at the end of the body."""
        assert self._response is not None
        with translated(self._remote.address.server):
            chunk = await self._response.content.readany()
        if not chunk:
            await self._disconnect()
            if self._surplus:
                raise VerificationFailed(f"the export ends {self._surplus} bytes before what is here already")
            return b""
        passed_over = min(self._surplus, len(chunk))
        self._surplus -= passed_over
        return chunk[passed_over:] or None

    async def _check_end(self) -> None:
        """A body that ends with its connection ends well wherever that is cut: only the server knows the length."""
        status = await self._remote.status_once()
        status.raise_if_ended_badly()
        if not status.completed or self._offset < status.progress.bytes:
            raise Transient(f"the download ended after {self._offset} bytes, and the export goes on")
        self.final = status

    async def _nothing_yet(self) -> bool:
        """Whether the silence is the export's own: it has no byte yet that is not here."""
        status = await self._remote.status_once()
        status.raise_if_ended_badly()
        return not status.completed and status.progress.bytes <= self._offset

    def _note_sha256(self, named: str | None) -> None:
        if named and self.named_sha256 and named != self.named_sha256:
            raise VerificationFailed("the Repr-Digest of the export has changed while it was downloaded")
        self.named_sha256 = named or self.named_sha256

    async def _disconnect(self) -> None:
        self._response = None
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()


def verify(status: ExportStatus, *, length: int, sha256: str, named: str | None) -> None:
    """Whether `length` bytes with this hash are the export. `named` is what a Repr-Digest said. VerificationFailed."""
    if status.sha256 is None:
        raise VerificationFailed("the server names no SHA-256 of the export")
    if length != status.progress.bytes:
        raise VerificationFailed(f"{length} bytes came, and the export has {status.progress.bytes}")
    if named not in (None, status.sha256):
        raise VerificationFailed("Repr-Digest and status name different SHA-256 of the export")
    if sha256 != status.sha256:
        raise VerificationFailed(f"the SHA-256 of what came is {sha256}, and that of the export {status.sha256}")
