"""Saves an export as a verified file: resume, download, verify, and only then rename to the target.

A compressed file that is to be decoded is first downloaded and verified like any other. Decoding while it comes would
save the seconds at the end, but not the disk, because only the compressed bytes can be resumed; and an interrupted run
would have filled the disk with decoded bytes of no use.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from streamer.client.download import Download, verify
from streamer.client.errors import LocalFileError, Replaced, Transient, VerificationFailed
from streamer.client.hashing import sha256_of
from streamer.client.metadata import MetadataFile
from streamer.client.partial import PartialFile
from streamer.client.pieces import missing, total_length
from streamer.client.remote import Remote
from streamer.client.representation import Representation, Transfer
from streamer.client.target import check_path, file_exists_error, part_path, translating_os_errors
from streamer.client.writing import SYNC_INTERVAL
from streamer.coding import Coding
from streamer.protocol.ranges import Slice

MAX_PIECE = 16 * 1024 * 1024  # bytes of one request
MIN_PIECES_EACH = 4  # for each connection, if the export is large enough: they end at about the same time


@dataclass(frozen=True, slots=True, kw_only=True)
class SavePolicy:
    """Sizes in bytes."""

    min_piece: int = 1024 * 1024  # of one request, which a kill may lose
    sync_interval: int = SYNC_INTERVAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A file that is complete and verified.

    Args:
        path: The file.
        export_id: The id of the export.
        bytes: The size of the file, compressed or not.
        rows: The number of records, without the header.
        sha256: The SHA-256 of the file, in hexadecimal.
        already_there: How many of the transferred bytes were received by earlier runs.
    """

    path: Path
    export_id: UUID
    bytes: int
    rows: int
    sha256: str
    already_there: int


async def save(
    remote: Remote, target: Path, transfer: Transfer, *, connections: int, force: bool, policy: SavePolicy
) -> Saved:
    """Raises any StreamerError. A resumable FILE.part is kept then."""
    status = await remote.downloadable_status()
    file = Representation.of(status, transfer.file_coding)
    if not force and (saved := await _existing_file(remote, target, file)):
        _discard_leftover(target, saved.export_id)
        return saved
    with PartialFile(target, sync_interval=policy.sync_interval) as part:
        if not force and (saved := await _existing_file(remote, target, file)):
            return saved  # by another pull, which held the lock until now
        wanted = Representation.of(status, transfer.coding)
        part.begin(remote.address, wanted, force=force)
        final, already_there = await _fetch_and_verify(remote, part, wanted, connections, policy)
        file = Representation.of(final.export, transfer.file_coding)
        if not force and (saved := await _existing_file(remote, target, file)):
            part.discard()
            return saved
        if transfer.decode:
            await _decode_and_verify(remote, part, file)
        await part.finish(force=force)
        return _saved(target, file, already_there)


def check_target(target: Path, *, force: bool, new: bool) -> None:
    """Raises LocalFileError as early as possible if the export cannot be saved there; `new` for a new export."""
    check_path(target)
    if new and not force:
        if target.exists():
            raise file_exists_error(target)
        part = PartialFile(target)
        if part.path.exists():
            with part:
                part.refuse_existing()


def discard_part(target: Path) -> None:
    """Removes the part of an export that was cancelled."""
    with PartialFile(target) as part:
        part.discard()


def _discard_leftover(target: Path, export_id: UUID) -> None:
    """Removes the part that a run has left which was killed after its last rename."""
    with translating_os_errors(target):
        found = MetadataFile(part_path(target)).read()
    if found is not None and found.export_id == export_id:
        with suppress(LocalFileError):  # another pull is writing it
            discard_part(target)


async def _existing_file(remote: Remote, target: Path, wanted: Representation) -> Saved | None:
    """Returns the file if it exists and is what is wanted. Raises LocalFileError if it is anything else."""
    with translating_os_errors(target):
        size = _size(target)
        if size is None:
            return None
        same = wanted.completed and size == wanted.bytes
        if not same or await sha256_of(target) != wanted.sha256:
            raise file_exists_error(target)
    remote.listener.received(wanted.bytes)
    return _saved(target, wanted, wanted.bytes)


def _size(target: Path) -> int | None:
    return target.stat().st_size if target.exists() else None


def _saved(target: Path, file: Representation, already_there: int) -> Saved:
    assert file.sha256 is not None
    return Saved(
        path=target,
        export_id=file.export.export_id,
        bytes=file.bytes,
        rows=file.export.progress.processed_rows,
        sha256=file.sha256,
        already_there=already_there,
    )


async def _fetch_and_verify(
    remote: Remote, part: PartialFile, wanted: Representation, connections: int, policy: SavePolicy
) -> tuple[Representation, int]:
    """Returns the completed representation, and the number of bytes that earlier runs received."""
    fetch: _PieceFetch | _SequentialFetch
    if part.pieces is not None or (connections > 1 and wanted.completed):
        completed = wanted if wanted.completed else await _completed(remote, wanted.coding)
        fetch = _PieceFetch(remote, part, completed, connections, policy.min_piece)
    else:
        fetch = _SequentialFetch(remote, part, wanted.coding)
    try:
        already_there = await fetch.run()
        assert fetch.final
        verify(fetch.final, length=part.length, sha256=part.sha256, announced=fetch.announced_sha256)
    except Replaced:
        raise  # the part is of the export that was replaced
    except VerificationFailed:
        part.discard()  # to resume it would fail in the same way
        raise
    return fetch.final, already_there


async def _completed(remote: Remote, coding: Coding) -> Representation:
    """Waits for a compressed file that is being made again, because its length was known to an earlier run."""

    async def once() -> Representation:
        status = await remote.status_once()
        status.raise_if_ended_badly()
        current = Representation.of(status, coding)
        if not current.completed:
            async with AsyncExitStack() as stack:  # the request makes it
                await remote.open(stack, current, etag=None, offset=0, stop=1)
            raise Transient(f"the {coding} file is being made again")
        return current

    completed: Representation = await remote.retry_policy.retrying(remote.listener)(once)
    return completed


async def _decode_and_verify(remote: Remote, part: PartialFile, file: Representation) -> None:
    try:
        sha256 = await part.decode(file.bytes, remote.listener)
        verify(file, length=file.bytes, sha256=sha256, announced=None)
    except VerificationFailed:
        part.discard()  # to decode it again would fail in the same way
        raise


class _SequentialFetch:
    """Fetches from the first missing byte on, and hashes the bytes as they come. The export may still grow."""

    def __init__(self, remote: Remote, part: PartialFile, coding: Coding) -> None:
        self._remote = remote
        self._part = part
        self._coding = coding
        self.announced_sha256: str | None = None
        self.final: Representation | None = None

    async def run(self) -> int:
        """Returns the number of bytes that earlier runs received."""
        part, listener = self._part, self._remote.listener
        await part.hash_existing(listener)
        already_there = part.length
        listener.received(part.length)
        download = Download(self._remote, self._coding, part.etag, part.length)
        async with aclosing(download.chunks()) as chunks:
            async for chunk in chunks:
                assert download.etag
                part.identify(download.etag)
                await part.append(chunk)
                listener.received(part.length)
        await part.flush()
        listener.received(part.length)
        self.announced_sha256 = download.announced_sha256
        self.final = download.final
        return already_there


class _PieceFetch:
    """Fetches the missing pieces of a sealed export over several connections, and hashes up to the first gap."""

    def __init__(
        self, remote: Remote, part: PartialFile, completed: Representation, connections: int, min_piece: int
    ) -> None:
        self._remote = remote
        self._part = part
        self._connections = connections
        self._min_piece = min_piece
        self.announced_sha256: str | None = None
        self.final = completed

    async def run(self) -> int:
        """Returns the number of bytes that earlier runs received."""
        part, length = self._part, self.final.bytes
        await part.start_pieces(length)
        assert part.pieces is not None
        already_there = total_length(part.pieces)
        self._remote.listener.received(already_there)
        max_piece = min(max(length // (MIN_PIECES_EACH * self._connections), self._min_piece), MAX_PIECE)
        await self._fetch_all(missing(list(part.pieces), length, max_piece))
        await part.hash_existing(self._remote.listener)
        return already_there

    async def _fetch_all(self, wanted: Iterator[Slice]) -> None:
        failures: Sequence[Exception] = ()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._connections):
                    group.create_task(self._fetch(wanted))
        except ExceptionGroup as group_error:
            failures = group_error.exceptions
        if failures:
            raise _worst(failures)

    async def _fetch(self, wanted: Iterator[Slice]) -> None:
        """Fetches the next wanted piece until there is none; the connections share the iterator."""
        for piece in wanted:
            download = Download(self._remote, self.final.coding, self._part.etag, piece.start, piece.stop)
            await self._write(download, piece.start)
            self.announced_sha256 = download.announced_sha256 or self.announced_sha256
            self._part.store_pieces()
            self._part.hash_ahead()

    async def _write(self, download: Download, position: int) -> None:
        part = self._part
        async with aclosing(download.chunks()) as chunks:
            async for chunk in chunks:
                await part.write_piece(position, chunk)
                position += len(chunk)
                self._remote.listener.received(total_length(part.pieces or []))


def _worst(failures: Iterable[Exception]) -> Exception:
    """Returns a VerificationFailed if there is one, because another run cannot solve it."""
    ordered = sorted(failures, key=lambda failure: not isinstance(failure, VerificationFailed))
    return ordered[0]
