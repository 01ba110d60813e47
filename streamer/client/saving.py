"""From an export to a verified file: resume, download, verify, and only then the name that was asked for."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from streamer.client.download import Download, Remote, verify
from streamer.client.errors import Replaced, VerificationFailed
from streamer.client.partial import PartialFile, sha256_of, total
from streamer.client.pieces import missing
from streamer.client.status import ExportStatus
from streamer.client.target import check_place, in_the_way, told
from streamer.protocol.ranges import Slice

MIN_PIECE = 1024 * 1024  # bytes that one connection asks for at once, and that a kill may lose; and the most
MAX_PIECE = 16 * MIN_PIECE
PIECES_EACH = 4  # at least, where the export is large enough: the connections end at about the same time


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A file that is whole and verified. `already_there` is how many of its bytes earlier runs had brought."""

    path: Path
    export_id: UUID
    bytes: int
    rows: int
    sha256: str
    already_there: int


async def save(remote: Remote, target: Path, *, connections: int, force: bool) -> Saved:
    """Raises StreamerError in all its kinds; what has come by then stays in FILE.part, if it can be gone on with."""
    status = await remote.living_status()
    if not force and (done := await _done_already(remote, target, status)):
        return done
    with PartialFile(target) as part:
        if not force and (done := await _done_already(remote, target, status)):
            return done  # by another pull, until the lock was free
        part.begin(remote.address, status, force=force)
        try:
            in_pieces = part.pieces is not None or (connections > 1 and status.completed)
            fetch = _Pieces(remote, part, status, connections) if in_pieces else _Beginning(remote, part, status)
            already_there = await fetch.run()
            assert fetch.final
            verify(fetch.final, length=part.length, sha256=part.sha256, named=fetch.named_sha256)
        except Replaced:
            raise  # what is here is of the export that was
        except VerificationFailed:
            part.discard()  # to go on with it would fail in the same way
            raise
        if not force and (done := await _done_already(remote, target, fetch.final)):
            part.discard()
            return done
        await part.finish(force=force)
        return _saved(target, fetch.final, already_there)


def check_target(target: Path, *, force: bool, new: bool) -> None:
    """Raises LocalFileError where it can be said early that nothing can be saved there; `new` for a new export."""
    check_place(target)
    if new and not force:
        if target.exists():
            raise in_the_way(target)
        part = PartialFile(target)
        if part.path.exists():
            with part:
                part.refuse_if_begun()


def discard_part(target: Path) -> None:
    """Of an export that will never be whole."""
    with PartialFile(target) as part:
        part.discard()


async def _done_already(remote: Remote, target: Path, status: ExportStatus) -> Saved | None:
    """The file, if it is there and is the export. Raises LocalFileError if it is anything else."""
    with told(target):
        size = _size(target)
        if size is None:
            return None
        same = status.completed and size == status.progress.bytes
        if not same or await sha256_of(target) != status.sha256:
            raise in_the_way(target)
    remote.watcher.received(status.progress.bytes)
    return _saved(target, status, status.progress.bytes)


def _size(target: Path) -> int | None:
    return target.stat().st_size if target.exists() else None


def _saved(target: Path, status: ExportStatus, already_there: int) -> Saved:
    assert status.sha256 is not None
    return Saved(
        path=target,
        export_id=status.export_id,
        bytes=status.progress.bytes,
        rows=status.progress.processed_rows,
        sha256=status.sha256,
        already_there=already_there,
    )


class _Beginning:
    """From the first byte on, hashed as it comes; also of an export that grows."""

    def __init__(self, remote: Remote, part: PartialFile, status: ExportStatus) -> None:
        self._remote = remote
        self._part = part
        self._status = status
        self.named_sha256: str | None = None
        self.final: ExportStatus | None = None

    async def run(self) -> int:
        """The number of bytes that were there already."""
        part, watcher = self._part, self._remote.watcher
        await part.hash_what_is_there(watcher)
        already_there = part.length
        watcher.received(part.length)
        download = Download(self._remote, self._status.etag, part.length)
        async with aclosing(download.chunks()) as chunks:
            async for chunk in chunks:
                await part.append(chunk)
                watcher.received(part.length)
        await part.appended()
        watcher.received(part.length)
        self.named_sha256 = download.named_sha256
        self.final = download.final
        return already_there


class _Pieces:
    """Of a sealed export, over several connections at once; hashed as far as there is no gap, in the end all of it."""

    def __init__(self, remote: Remote, part: PartialFile, status: ExportStatus, connections: int) -> None:
        self._remote = remote
        self._part = part
        self._status = status
        self._connections = connections
        self.named_sha256: str | None = None
        self.final: ExportStatus | None = status

    async def run(self) -> int:
        """The number of bytes that were there already."""
        part, length = self._part, self._status.progress.bytes
        await part.use_pieces(length)
        assert part.pieces is not None
        already_there = total(part.pieces)
        self._remote.watcher.received(already_there)
        most = min(max(length // (PIECES_EACH * self._connections), MIN_PIECE), MAX_PIECE)
        wanted = missing(list(part.pieces), length, most)
        failed: Sequence[Exception] = ()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._connections):
                    group.create_task(self._fetch(wanted))
        except ExceptionGroup as failures:
            failed = failures.exceptions
        if failed:
            raise _worst(failed)
        await part.hash_what_is_there(self._remote.watcher)
        return already_there

    async def _fetch(self, wanted: Iterator[Slice]) -> None:
        part = self._part
        for piece in wanted:  # each connection takes the next one
            download = Download(self._remote, self._status.etag, piece.start, piece.stop)
            position = piece.start
            async with aclosing(download.chunks()) as chunks:
                async for chunk in chunks:
                    await part.write_piece(position, chunk)
                    position += len(chunk)
                    self._remote.watcher.received(total(part.pieces or []))
            self.named_sha256 = download.named_sha256 or self.named_sha256
            part.note_pieces()
            part.hash_ahead()


def _worst(failures: Iterable[Exception]) -> Exception:
    """The one that no repetition helps against, if there is one."""
    ordered = sorted(failures, key=lambda failure: not isinstance(failure, VerificationFailed))
    return ordered[0]
