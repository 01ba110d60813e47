"""The folder of spools: names, opening sealed spools, and leaving other files alone."""

import asyncio
import errno
import fcntl
import hashlib
import io
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from streamer.coding import COMPRESSED, Coding
from streamer.errors import StartError
from streamer.spool.directory import HASH_BUFFER, HASH_PIECE, HASHING, SpoolDirectory
from streamer.spool.file import ASIDE
from streamer.spool.identity import NAME, UNNAMED
from streamer.spool.names import SpoolName
from streamer.spool.servers import PREFIX
from streamer.spool.space import Shortage
from tests.polling import until

CONTENT = b"id\n1\n2\n"


async def always_room() -> None:
    """There is always room."""


@pytest.fixture
def directory(tmp_path: Path, executor: ThreadPoolExecutor) -> SpoolDirectory:
    return SpoolDirectory(tmp_path, executor)


@pytest.fixture
def kept(directory: SpoolDirectory) -> UUID:
    """An export whose file is whole."""
    export_id = uuid4()
    directory.file_of(export_id).write_bytes(CONTENT)
    return export_id


def test_prepare_creates_the_folder_and_leaves_nothing_in_it(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    path = tmp_path / "var" / "spool"
    SpoolDirectory(path, executor).prepare()
    SpoolDirectory(path, executor).prepare()
    assert path.is_dir()
    assert list(path.iterdir()) == []


def test_prepare_removes_temporary_files_of_a_killed_process(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    for name in (f"{ASIDE}1", f"{UNNAMED}1", "notes"):
        (tmp_path / name).touch()
    SpoolDirectory(tmp_path, executor).prepare()
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


@pytest.mark.parametrize("below", ["", "deeper"])
def test_prepare_with_a_file_in_the_place_of_the_folder_is_a_start_error(
    tmp_path: Path, executor: ThreadPoolExecutor, below: str
) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    path = tmp_path / "file" / below
    with pytest.raises(StartError, match=r"^EXPORT_STORAGE_PATH: cannot write to ") as refused:
        SpoolDirectory(path, executor).prepare()
    assert str(path) in str(refused.value)
    assert str(refused.value).isprintable()
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_prepare_of_a_read_only_folder_is_a_start_error(
    tmp_path: Path, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, content: bytes) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(
        StartError, match=r"^EXPORT_STORAGE_PATH: .*Permission denied; let this user write there, or choose "
    ):
        SpoolDirectory(tmp_path, executor).prepare()


async def test_created_spool_has_its_name_and_no_file_until_it_is_opened(directory: SpoolDirectory) -> None:
    export_id = uuid4()
    spool = directory.create(export_id, always_room)
    assert spool.path == directory.file_of(export_id)
    assert not spool.path.exists()
    assert await directory.spools() == {}
    spool.open()
    assert await directory.spools() == {SpoolName(export_id): 0}
    await spool.append(CONTENT, 2)
    sealed = await spool.finish()
    spool.seal()
    with directory.open(export_id, sealed.length) as file:
        assert file.read() == CONTENT


def test_every_open_has_a_position_of_its_own(directory: SpoolDirectory, kept: UUID) -> None:
    with directory.open(kept, len(CONTENT)) as first, directory.open(kept, len(CONTENT)) as second:
        assert first.fileno() != second.fileno()
        assert first.read() == CONTENT
        assert second.read() == CONTENT


@pytest.mark.parametrize("length", [0, len(CONTENT) - 1, len(CONTENT) + 1])
def test_file_of_another_length_than_sealed_is_not_found(directory: SpoolDirectory, kept: UUID, length: int) -> None:
    with pytest.raises(FileNotFoundError, match=f"does not have the {length} bytes that it was completed with"):
        directory.open(kept, length)


def test_missing_file_is_not_found(directory: SpoolDirectory) -> None:
    with pytest.raises(FileNotFoundError):
        directory.open(uuid4(), 0)


async def test_removed_file_is_read_to_its_end_by_an_open_reader(directory: SpoolDirectory, kept: UUID) -> None:
    with directory.open(kept, len(CONTENT)) as file:
        assert await directory.remove(kept) == [len(CONTENT)]
        assert file.read() == CONTENT
    assert not directory.file_of(kept).exists()
    with pytest.raises(FileNotFoundError):
        directory.open(kept, len(CONTENT))


async def test_remove_touches_only_its_own_export_and_may_be_repeated(directory: SpoolDirectory, kept: UUID) -> None:
    assert await directory.remove(uuid4()) == []
    assert set(await directory.spools()) == {SpoolName(kept)}
    assert await directory.remove(kept) == [len(CONTENT)]
    assert await directory.remove(kept) == []
    assert await directory.spools() == {}


async def test_file_that_cannot_be_removed_is_remembered_until_it_is(directory: SpoolDirectory, kept: UUID) -> None:
    other = uuid4()
    directory.file_of(other).mkdir()  # unlink refuses it, also for root
    assert await directory.remove(other, kept) == [len(CONTENT)]
    assert directory.undeletable == {SpoolName(other)}
    directory.file_of(other).rmdir()
    assert await directory.remove(other) == []
    assert directory.undeletable == set()


async def test_undeletable_file_that_others_have_removed_is_forgotten(directory: SpoolDirectory) -> None:
    other = uuid4()
    directory.file_of(other).mkdir()
    await directory.remove(other)
    directory.file_of(other).rmdir()
    assert await directory.spools() == {}
    assert directory.undeletable == set()


async def test_spools_are_files_with_the_exact_form_of_name(
    directory: SpoolDirectory, kept: UUID, tmp_path: Path
) -> None:
    strange = uuid4()
    for name in (
        f"{strange}.csv.part",
        f"{strange}",
        f"{str(strange).upper()}X.csv",
        "ABCDEF01-2345-4678-89AB-CDEF01234567.csv",
        f"{strange.hex}.csv",
        f"{{{strange}}}.csv",
        f"urn:uuid:{strange}.csv",
        f"{strange}.gz",
        f"{strange}.csv.bz2",
        f"{strange}.csv.gz.zst",
        "report.csv",
        ".csv",
        ".gitkeep",
        ".probe-1",
    ):
        (tmp_path / name).write_bytes(b"")
    assert await directory.spools() == {SpoolName(kept): len(CONTENT)}


@pytest.mark.parametrize("coding", COMPRESSED)
async def test_files_of_one_export_are_spools_of_their_own_and_are_removed_together(
    directory: SpoolDirectory, kept: UUID, coding: Coding
) -> None:
    directory.file_of(kept, coding).write_bytes(b"compressed")
    assert await directory.spools() == {SpoolName(kept): len(CONTENT), SpoolName(kept, coding): 10}
    assert directory.used == len(CONTENT) + 10
    with directory.open(kept, 10, coding) as file:
        assert file.read() == b"compressed"
    assert await directory.sha256(kept, coding) == hashlib.sha256(b"compressed").digest()
    assert await directory.sizes([SpoolName(kept, coding), SpoolName(uuid4(), coding)]) == [10, None]
    assert sorted(await directory.remove(kept)) == sorted([len(CONTENT), 10])
    assert await directory.spools() == {}


async def test_one_file_of_an_export_is_removed_alone(directory: SpoolDirectory, kept: UUID) -> None:
    directory.file_of(kept, Coding.GZIP).write_bytes(b"compressed")
    assert await directory.remove_files([SpoolName(kept, Coding.GZIP)]) == [10]
    assert await directory.spools() == {SpoolName(kept): len(CONTENT)}


async def test_missing_folder_has_no_spools(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    assert await SpoolDirectory(tmp_path / "missing", executor).spools() == {}


# Identity


def test_folder_belongs_to_the_table_that_claimed_it_first(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    ours, theirs = uuid4(), uuid4()
    first, second, foreign = (SpoolDirectory(tmp_path, executor) for _ in range(3))
    first.claim(ours)
    second.claim(ours)
    assert first.id == second.id
    with pytest.raises(StartError, match=r"^EXPORT_STORAGE_PATH: .* holds the exports of another database") as refused:
        foreign.claim(theirs)
    assert str(tmp_path / NAME) in str(refused.value)
    assert str(refused.value).isprintable()
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_folders_of_one_table_have_different_ids(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    store, found = uuid4(), set()
    for name in "ab":
        directory = SpoolDirectory(tmp_path / name, executor)
        directory.prepare()
        directory.claim(store)
        found.add(directory.id)
    assert len(found) == 2


def test_servers_that_claim_a_new_folder_at_once_agree(tmp_path: Path) -> None:
    store = uuid4()
    with ThreadPoolExecutor(8) as threads:

        def claimed(number: int) -> UUID:
            directory = SpoolDirectory(tmp_path, threads)
            directory.claim(store)
            return directory.id

        assert len(set(threads.map(claimed, range(32)))) == 1
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"store": 1}', b'{"store": "x", "folder": "y"}', b"\xff"])
def test_damaged_identity_is_a_start_error_and_is_kept(
    tmp_path: Path, executor: ThreadPoolExecutor, content: bytes
) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(StartError, match=r"^EXPORT_STORAGE_PATH: .* is damaged; choose another folder$"):
        SpoolDirectory(tmp_path, executor).claim(uuid4())
    assert (tmp_path / NAME).read_bytes() == content


def test_deleted_folder_is_created_again_with_its_identity_and_its_lock(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    directory = SpoolDirectory(tmp_path / "spool", executor)
    store, server_id = uuid4(), uuid4()
    directory.prepare()
    directory.claim(store)
    with directory.alive(server_id):
        shutil.rmtree(tmp_path / "spool")
        directory.restore()
        again = SpoolDirectory(tmp_path / "spool", executor)
        again.claim(store)
        assert again.id == directory.id
        assert (tmp_path / "spool" / f"{PREFIX}{server_id}").exists()
        with again.dead_servers() as dead:
            assert dead == []
    assert [path.name for path in (tmp_path / "spool").iterdir()] == [NAME]


def test_folder_without_locks_is_a_start_error(
    directory: SpoolDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(StartError, match=r"^EXPORT_STORAGE_PATH: .*No locks available; choose a folder "),
        directory.alive(uuid4()),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


# Space


async def test_shortage_is_in_bytes_and_follows_writes_and_removals(
    tmp_path: Path, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = SpoolDirectory(tmp_path, executor, max_bytes=2 * len(CONTENT))
    assert not await directory.shortage()
    export_id = uuid4()
    spool = directory.create(export_id, always_room)
    spool.open()
    for _ in range(3):
        await spool.append(CONTENT, 2)
    await spool.finish()
    spool.seal()
    assert await directory.shortage() == Shortage(limit=len(CONTENT) + 1)
    assert await directory.shortage(recount=True) == Shortage(limit=len(CONTENT) + 1)
    directory.file_of(uuid4()).write_bytes(CONTENT)  # by another server
    assert await directory.shortage() == Shortage(limit=len(CONTENT) + 1)
    assert await directory.shortage(recount=True) == Shortage(limit=2 * len(CONTENT) + 1)
    await directory.remove(export_id)
    assert not await directory.shortage()
    discarded = directory.create(uuid4(), always_room)
    discarded.open()
    await discarded.append(CONTENT * 2, 4)
    await discarded.finish()
    assert await directory.shortage()
    discarded.fail("cancelled")
    await discarded.discard()
    assert not await directory.shortage()


async def test_files_removed_during_a_count_are_not_counted(tmp_path: Path) -> None:
    counted, removed = threading.Event(), threading.Event()

    class CountedSlowly(SpoolDirectory):
        def _scan(self) -> tuple[int, dict[SpoolName, int]]:
            found = super()._scan()
            counted.set()
            assert removed.wait(10)
            return found

    with ThreadPoolExecutor(2) as executor:
        directory = CountedSlowly(tmp_path, executor, max_bytes=2 * len(CONTENT))
        going, staying = uuid4(), uuid4()
        for export_id in (going, staying):
            directory.file_of(export_id).write_bytes(CONTENT)
        counting = asyncio.create_task(directory.spools())
        assert await asyncio.to_thread(counted.wait, 10)
        assert await directory.remove(going) == [len(CONTENT)]
        removed.set()
        await counting
        assert directory.used == len(CONTENT)
        assert not await directory.shortage()


# Threads


LARGE = 5 * HASH_PIECE + 1


@pytest.mark.parametrize("size", [0, 1, HASH_BUFFER, HASH_PIECE, HASH_PIECE + 1])
async def test_hash_is_that_of_the_whole_file(directory: SpoolDirectory, kept: UUID, size: int) -> None:
    content = (CONTENT * (size // len(CONTENT) + 1))[:size]
    directory.file_of(kept).write_bytes(content)
    assert await directory.sha256(kept) == hashlib.sha256(content).digest()


async def test_hash_of_a_missing_file_raises(directory: SpoolDirectory) -> None:
    with pytest.raises(FileNotFoundError):
        await directory.sha256(uuid4())


async def test_hash_of_a_small_file_does_not_wait_for_large_ones(directory: SpoolDirectory, kept: UUID) -> None:
    large = [uuid4() for _ in range(2 * HASHING)]
    for export_id in large:
        directory.file_of(export_id).touch()
        os.truncate(directory.file_of(export_id), LARGE)
    hashing = [asyncio.create_task(directory.sha256(export_id)) for export_id in large]
    await asyncio.sleep(0)  # they are in the line before it
    assert await directory.sha256(kept) == hashlib.sha256(CONTENT).digest()
    assert not any(task.done() for task in hashing)
    digests = set(await asyncio.gather(*hashing))
    assert digests == {hashlib.sha256(bytes(LARGE)).digest()}


async def test_cancelled_hash_stops_and_its_threads_end(
    directory: SpoolDirectory, kept: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, preadv = threading.Event(), os.preadv

    def read(*arguments: Any) -> int:
        begun.set()
        return preadv(*arguments)

    monkeypatch.setattr(os, "preadv", read)
    os.truncate(directory.file_of(kept), 1 << 40)  # a hole, which would take ten minutes
    hashing = asyncio.create_task(directory.sha256(kept))
    await until(begun.is_set, "the file is being hashed")
    hashing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hashing
    await asyncio.wait_for(asyncio.to_thread(directory.close), 10)


async def test_spool_and_shortage_wait_for_neither_removals_nor_hashes(
    directory: SpoolDirectory, kept: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    preadv, unlink = os.preadv, os.unlink

    def slow_read(*arguments: Any) -> int:
        assert go_on.wait(20)
        return preadv(*arguments)

    def slow_unlink(*arguments: Any, **named: Any) -> None:
        assert go_on.wait(20)
        unlink(*arguments, **named)

    monkeypatch.setattr(os, "preadv", slow_read)
    monkeypatch.setattr(os, "unlink", slow_unlink)
    removing = [asyncio.create_task(directory.remove(uuid4(), kept)) for _ in range(8)]
    hashing = [asyncio.create_task(directory.sha256(kept)) for _ in range(8)]
    await asyncio.sleep(0)
    spool = directory.create(uuid4(), always_room)
    spool.open()
    await spool.append(CONTENT, 2)
    assert (await spool.finish()).rows == 2
    assert not await directory.shortage()
    assert not any(task.done() for task in (*removing, *hashing))
    go_on.set()
    await asyncio.gather(*removing, *hashing, return_exceptions=True)


@pytest.mark.parametrize("removed", [False, True])
async def test_reader_of_a_removed_file_is_closed_in_a_thread(
    directory: SpoolDirectory, kept: UUID, removed: bool
) -> None:
    """That frees its blocks."""
    file = Closing(directory.file_of(kept))
    if removed:
        await directory.remove(kept)
    directory.close_reader(file)
    directory.close()
    assert file.closed
    assert (file.closed_by is threading.main_thread()) is not removed


class Closing(io.FileIO):
    """Tells who has closed it."""

    closed_by: threading.Thread | None = None

    def close(self) -> None:
        self.closed_by = self.closed_by or threading.current_thread()
        super().close()


def disk(*, blocks: int = 1000, files: int = 1000, free_files: int = 1000) -> os.statvfs_result:
    """A disk with so many free blocks of a byte, and free files of so many."""
    return os.statvfs_result((1, 1, blocks, blocks, blocks, files, free_files, free_files, 0, 255))


@pytest.mark.parametrize(
    ("found", "shortage"),
    [
        (disk(), Shortage()),
        (disk(free_files=0), Shortage(files=1)),
        (disk(files=0, free_files=0), Shortage()),  # btrfs has no number of files
        (disk(blocks=99), Shortage(disk=2)),
        (disk(blocks=100), Shortage(disk=1)),
        (disk(blocks=101), Shortage()),
    ],
    ids=["room", "no_files", "files_unknown", "less_than_reserve", "reserve", "more_than_reserve"],
)
async def test_shortage_is_that_of_the_disk(
    tmp_path: Path,
    executor: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    found: os.statvfs_result,
    shortage: Shortage,
) -> None:
    directory = SpoolDirectory(tmp_path, executor, reserve=100)
    monkeypatch.setattr(os, "statvfs", lambda _: found)
    assert await directory.shortage() == shortage
    spool = directory.create(uuid4(), always_room)
    assert spool._volume.is_short() is (shortage.disk > 0)
    directory.close()


async def test_disk_that_cannot_be_asked_is_short(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    """Whether there is room is then decided where an error has a sentence."""
    missing, without_reserve = (SpoolDirectory(tmp_path / "no", executor, reserve=reserve) for reserve in (1, 0))
    assert missing.create(uuid4(), always_room)._volume.is_short()
    assert not without_reserve.create(uuid4(), always_room)._volume.is_short()


async def test_shortage_of_a_deleted_folder_is_that_of_a_new_one(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    path = tmp_path / "spool"
    directory = SpoolDirectory(path, executor)
    directory.prepare()
    directory.claim(uuid4())
    shutil.rmtree(path)
    assert await directory.shortage() == Shortage()
    assert (path / NAME).exists()
    directory.close()


@pytest.mark.parametrize("reserve", [0, 1 << 60])
def test_reserve_that_refuses_every_export_is_a_warning(
    tmp_path: Path, executor: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture, reserve: int
) -> None:
    SpoolDirectory(tmp_path, executor, reserve=reserve).prepare()
    assert ("every export is refused" in caplog.text) is bool(reserve)


def test_prepare_of_two_servers_at_once_may_find_files_gone(
    tmp_path: Path, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def and_remove(path: Path, content: bytes) -> int:
        written = write(path, content)
        path.unlink()
        return written

    monkeypatch.setattr(Path, "write_bytes", and_remove)
    monkeypatch.setattr(Path, "glob", lambda path, _: [path / f"{ASIDE}gone"])
    SpoolDirectory(tmp_path, executor).prepare()


async def test_no_thread_is_left_after_the_close(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    directory = SpoolDirectory(tmp_path, executor)
    await directory.sizes([])
    directory.close()
    for call in (directory.sizes([]), directory.remove(uuid4()), directory.sha256(uuid4())):
        with pytest.raises(RuntimeError, match="after shutdown"):
            await call
