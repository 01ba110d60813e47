"""FILE.part: failing disks, the metadata of pieces, the lock."""

import asyncio
import gzip
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest

from streamer.client.address import Address
from streamer.client.errors import LocalFileError, VerificationFailed
from streamer.client.partial import PartialFile
from streamer.client.progress import ProgressListener
from streamer.client.representation import Representation
from streamer.client.status import ExportStatus
from streamer.client.writing import SYNC_INTERVAL
from streamer.coding import Coding
from streamer.model import State
from streamer.protocol.ranges import Slice
from streamer.schema import ExportProgress
from tests.polling import until

ID = UUID("b42ef8e9-f053-4b3b-ac2a-212af6ebadc3")
ADDRESS = Address("http://127.0.0.1:8080", ID)
STATUS = ExportStatus(
    export_id=ID,
    status=State.COMPLETED,
    progress=ExportProgress(processed_rows=1, bytes=90, percentage=100.0),
    etag='"tag"',
)
CSV = Representation.of(STATUS, Coding.IDENTITY)
CHUNKS = [bytes([number]) * 30 for number in range(3)]


@contextmanager
def begun(target: Path, *, sync_interval: int = SYNC_INTERVAL) -> Iterator[PartialFile]:
    with PartialFile(target, sync_interval=sync_interval) as part:
        part.begin(ADDRESS, CSV, force=False)
        yield part


@pytest.fixture
def part(tmp_path: Path) -> Iterator[PartialFile]:
    with begun(tmp_path / "x.csv") as part:
        yield part


async def append(part: PartialFile, chunks: Sequence[bytes]) -> None:
    for chunk in chunks:
        await part.append(chunk)
    await part.flush()


def test_appended_chunks_are_written_in_order(tmp_path: Path) -> None:
    async def append_all(part: PartialFile) -> None:
        await append(part, CHUNKS)
        await part.finish(force=False)

    with begun(tmp_path / "x.csv") as part:
        asyncio.run(append_all(part))
    assert part.target.read_bytes() == b"".join(CHUNKS)
    assert part.sha256 == hashlib.sha256(b"".join(CHUNKS)).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


@pytest.mark.parametrize("taken", [0, 10, 29])
def test_no_chunk_is_written_after_a_failed_write(tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes a part of the second of three chunks, reports that it is full, and then takes every write."""
    answers = [30, taken]
    real = os.write

    def write(fd: int, content: memoryview) -> int:
        if not answers:
            monkeypatch.undo()
            raise OSError(28, "No space left on device")
        return real(fd, content[: answers.pop(0)])

    monkeypatch.setattr(os, "write", write)
    with begun(tmp_path / "x.csv") as part, pytest.raises(LocalFileError, match=r"csv\.part: No space left on device"):
        asyncio.run(append(part, CHUNKS))
    assert part.path.read_bytes() == b"".join(CHUNKS)[: 30 + taken]


def test_bytes_are_synced_while_further_chunks_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    with begun(tmp_path / "x.csv", sync_interval=60) as part:
        asyncio.run(append(part, CHUNKS))
    assert len(synced) == 1
    assert synced[0] >= 60


@pytest.mark.parametrize("good", [0, 1])
def test_a_part_whose_sync_failed_never_becomes_the_file(
    tmp_path: Path, good: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sync fails, the first or the last one, and every other one succeeds, as on Linux."""
    answers = [None] * good + [OSError(5, "Input/output error")]

    def fsync(fd: int) -> None:
        if answers and (failure := answers.pop(0)):
            raise failure

    async def pull(part: PartialFile) -> None:
        await append(part, CHUNKS)
        await part.finish(force=False)

    monkeypatch.setattr(os, "fsync", fsync)
    failed = pytest.raises(LocalFileError, match=r"csv\.part: Input/output error")
    with begun(tmp_path / "x.csv", sync_interval=60) as part, failed:
        asyncio.run(pull(part))
    assert not list(tmp_path.iterdir())


def test_the_next_run_hashes_the_existing_bytes(tmp_path: Path) -> None:
    with begun(tmp_path / "x.csv") as part:
        asyncio.run(append(part, CHUNKS[:1]))
    with begun(tmp_path / "x.csv") as part:
        asyncio.run(part.hash_existing(ProgressListener()))
        assert (part.length, part.sha256) == (30, hashlib.sha256(CHUNKS[0]).hexdigest())


def test_the_next_run_knows_the_pieces(tmp_path: Path) -> None:
    async def write(part: PartialFile) -> None:
        await append(part, CHUNKS[:1])
        await part.start_pieces(90)
        await part.write_piece(60, CHUNKS[2])

    with begun(tmp_path / "x.csv") as part:
        asyncio.run(write(part))
        assert part.path.stat().st_size == 90
    with begun(tmp_path / "x.csv") as part:
        assert part.pieces == [Slice(0, 30), Slice(60, 90)]


def test_pieces_are_hashed_up_to_the_first_gap(part: PartialFile) -> None:
    asyncio.run(part.start_pieces(90))
    for number, hashed in ((2, 0), (0, 30), (1, 90)):
        asyncio.run(part.write_piece(number * 30, CHUNKS[number]))
        part.hash_ahead()
        asyncio.run(until(lambda: part.length == hashed, f"{hashed} bytes are hashed"))  # noqa: B023 - it runs at once
    assert part.sha256 == hashlib.sha256(b"".join(CHUNKS)).hexdigest()


def test_an_empty_part_is_removed(tmp_path: Path) -> None:
    with PartialFile(tmp_path / "x.csv") as part:
        part.begin(ADDRESS, CSV, force=False)
        assert len(list(tmp_path.iterdir())) == 3
    assert not list(tmp_path.iterdir())


def test_a_part_has_one_writer(part: PartialFile) -> None:
    with pytest.raises(LocalFileError, match="another pull is writing"), PartialFile(part.target):
        pass


def test_part_of_pieces_reserves_its_length_on_disk(part: PartialFile) -> None:
    """A disk that is too small then fails at the start: a file that has only its length set has no blocks."""
    length = 8 * 1024 * 1024
    asyncio.run(part.start_pieces(length))
    found = part.path.stat()
    assert found.st_size == length
    assert found.st_blocks * 512 >= length


GZIP = Representation(export=STATUS, coding=Coding.GZIP, etag=None)
PLAIN = b"id\n1\n" * 1000


def test_an_etag_that_was_not_known_is_in_the_metadata_before_the_first_byte(tmp_path: Path) -> None:
    with PartialFile(tmp_path / "x.csv") as part:
        part.begin(ADDRESS, GZIP, force=False)
        assert part.etag is None
        part.identify('"gz"')
        asyncio.run(append(part, CHUNKS[:1]))
        part.identify('"other"')
    with PartialFile(tmp_path / "x.csv") as part:
        part.begin(ADDRESS, GZIP, force=False)
        assert part.etag == '"gz"'
    url = json.loads((tmp_path / "x.csv.part.json").read_bytes())["url"]
    assert url == ADDRESS.file(Coding.GZIP)


async def decode(part: PartialFile, content: bytes, length: int) -> str:
    part.begin(ADDRESS, GZIP, force=False)
    part.identify('"gz"')
    await append(part, [content])
    return await part.decode(length, ProgressListener())


@pytest.mark.parametrize("leftover", [None, b"of a run that was killed " * 1000])
def test_a_decoded_part_becomes_the_file_and_nothing_else_stays(tmp_path: Path, leftover: bytes | None) -> None:
    async def save(part: PartialFile) -> str:
        sha256 = await decode(part, gzip.compress(PLAIN), len(PLAIN))
        await part.finish(force=False)
        return sha256

    if leftover is not None:
        (tmp_path / "x.csv.part.decoded").write_bytes(leftover)
    with PartialFile(tmp_path / "x.csv") as part:
        assert asyncio.run(save(part)) == hashlib.sha256(PLAIN).hexdigest()
    assert part.target.read_bytes() == PLAIN
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def test_a_leftover_of_decoding_never_becomes_the_file_of_another_run(tmp_path: Path) -> None:
    async def save(part: PartialFile) -> None:
        await append(part, CHUNKS)
        await part.finish(force=False)

    (tmp_path / "x.csv.part.decoded").write_bytes(b"of a run that was killed")
    with begun(tmp_path / "x.csv") as part:
        asyncio.run(save(part))
    assert part.target.read_bytes() == b"".join(CHUNKS)
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


@pytest.mark.parametrize("length", [len(PLAIN) - 1, len(PLAIN) + 1])
def test_decoded_bytes_of_another_length_are_an_error_and_the_part_stays(tmp_path: Path, length: int) -> None:
    with PartialFile(tmp_path / "x.csv") as part, pytest.raises(VerificationFailed, match="decoded"):
        asyncio.run(decode(part, gzip.compress(PLAIN), length))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv.part", "x.csv.part.json"]


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_what_is_decoded_has_the_permissions_of_the_file_that_it_replaces(tmp_path: Path, mode: int) -> None:
    (tmp_path / "x.csv").write_bytes(b"old")
    (tmp_path / "x.csv").chmod(mode)
    with PartialFile(tmp_path / "x.csv") as part:
        asyncio.run(decode(part, gzip.compress(PLAIN), len(PLAIN)))
        assert stat.S_IMODE((tmp_path / "x.csv.part.decoded").stat().st_mode) == mode
        asyncio.run(part.finish(force=True))
    assert stat.S_IMODE((tmp_path / "x.csv").stat().st_mode) == mode
