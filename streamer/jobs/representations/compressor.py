"""Makes a compressed representation: follows the export, compresses in a thread, and appends to a spool of its own.

    the export's file → cuts of 256 KiB → coder → spool → any number of followers

Of an export that is being written, everything is flushed as soon as the compressor has caught up, so that a client can
decompress a row soon after it was published. The offsets of the flushes are the only part of the result that the export
does not determine, so each is noted before its bytes can be read.

Bytes that clients may have downloaded before must come out again. A `Proof` knows the digest of such bytes, and the
representation may be followed when they have been made and compared.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from typing import BinaryIO, Protocol, TypeVar

from streamer.formats.compression import CUT, Compression, Cut
from streamer.jobs.completed import CompletedExport
from streamer.jobs.representations.active import ServedBytes
from streamer.process.threads import in_thread
from streamer.spool.follower import Extent, TruncatedError
from streamer.spool.spool import Spool

Piece = TypeVar("Piece", bytes, bytearray)

FLUSH_INTERVAL = 0.02  # seconds between two flushes, so that the flushes of a fast export cost little
MIN_PIECE = 64 * 1024  # compressed bytes that are collected before they are appended
MAX_PIECE = MIN_PIECE + CUT  # if the last cut cannot be compressed
FILE_IS_SHORTER = "the file of the export is shorter than it was"


class Identity(Protocol):
    """The bytes of an export, as extents of a file in their order."""

    @property
    def file(self) -> BinaryIO: ...

    @property
    def caught_up(self) -> bool:
        """Whether the next extent has not been published yet."""
        ...

    async def early(self) -> bytes:
        """Returns the bytes known before there is an extent."""
        ...

    def __aiter__(self) -> AsyncIterator[Extent]: ...


class CompletedIdentity:
    """That of a completed export."""

    caught_up = False

    def __init__(self, export: CompletedExport) -> None:
        self.file = export.file
        self._length = export.length

    async def early(self) -> bytes:
        return b""

    async def __aiter__(self) -> AsyncIterator[Extent]:
        yield Extent(0, self._length)


class OtherBytesError(Exception):
    """The bytes that clients may have downloaded did not come out again."""


class Proof:
    """Compares the first bytes of what is made with those that were served."""

    def __init__(self, served: ServedBytes) -> None:
        self._rest = served.length
        self._expected = served.sha256
        self._digest = hashlib.sha256()

    @property
    def done(self) -> bool:
        return not self._rest

    def add(self, piece: bytes | bytearray) -> None:
        """Raises OtherBytesError."""
        if self.done:
            return
        proven = memoryview(piece)[: self._rest]
        self._digest.update(proven)
        self._rest -= len(proven)
        if self.done:
            self._compare()

    def finish(self) -> None:
        """No more bytes come. Raises OtherBytesError."""
        if not self.done:
            raise OtherBytesError

    def _compare(self) -> None:
        if self._digest.digest() != self._expected:
            raise OtherBytesError


class Compressor:
    """Fills one spool. `on_proven` is called as soon as the representation may be followed.

    `note_flush` is awaited before a flush, with its offset in the export, and returns whether it may be made.
    """

    def __init__(
        self,
        compression: Compression,
        spool: Spool,
        executor: Executor,
        *,
        proof: Proof,
        on_proven: Callable[[], None],
        note_flush: Callable[[int], Awaitable[bool]],
    ) -> None:
        self._compression = compression
        self._spool = spool
        self._executor = executor
        self._proof = proof
        self._on_proven = on_proven
        self._note_flush = note_flush
        self._buffer = memoryview(bytearray(CUT))

    async def run(self, identity: Identity) -> None:
        """Appends everything to the spool. Raises OtherBytesError, TruncatedError and ExportFailure."""
        if self._proof.done:
            self._on_proven()
        await self._take_early(await identity.early())
        end = self._compression.position
        async for extent in identity:
            end = extent.offset + extent.length
            flush = identity.caught_up and await self._may_flush(end)
            await self._compress(identity.file, end, flush=flush)
            if flush:
                await asyncio.sleep(FLUSH_INTERVAL)
        if end > self._compression.position:
            await self._compress(identity.file, end, ended=True)
        await self._append(await in_thread(self._executor, self._end))
        self._proof.finish()

    async def _may_flush(self, position: int) -> bool:
        """There is no new flush between those that are repeated."""
        return not self._compression.is_repeating and await self._note_flush(position)

    async def _take_early(self, early: bytes) -> None:
        """These bytes are few, and not in the file yet."""
        flush = bool(early) and await self._may_flush(len(early))
        cut = self._compression.next_cut(len(early), ended=False, flush=flush)
        if cut is not None:
            await self._append(self._prove(self._compression.take(early[: cut.stop], cut)))

    async def _compress(self, file: BinaryIO, end: int, *, flush: bool = False, ended: bool = False) -> None:
        """Compresses up to the last cut before `end`, or to `end` if it is a cut."""
        next_cut = partial(self._compression.next_cut, end, flush=flush, ended=ended)
        while next_cut():
            await self._append(await in_thread(self._executor, partial(self._compress_some, file, next_cut)))

    def _compress_some(self, file: BinaryIO, next_cut: Callable[[], Cut | None]) -> bytearray:
        """In a thread: takes cuts until they give a piece that is worth appending."""
        piece = bytearray()
        while len(piece) < MIN_PIECE and (cut := next_cut()):
            window = self._buffer[: cut.stop - self._compression.position]
            if os.preadv(file.fileno(), [window], self._compression.position) < len(window):
                raise TruncatedError(FILE_IS_SHORTER)
            piece += self._compression.take(window, cut)
        return self._prove(piece)

    def _end(self) -> bytes:
        return self._prove(self._compression.end())

    def _prove(self, piece: Piece) -> Piece:
        """Raises OtherBytesError."""
        self._proof.add(piece)
        return piece

    async def _append(self, piece: bytes | bytearray) -> None:
        if piece:
            await self._spool.publish(piece)
        if self._proof.done:
            self._on_proven()
