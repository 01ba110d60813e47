"""No room, and a disk that fails: the export fails, its file is removed, and the server goes on.

New exports get 507 until there is room again. A sealed file that differs from its row is never served. The faults are
errors of `os.write` and `os.fsync`, the calls by which a spool uses the disk, and a full file system.
"""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from streamer.coding import Coding
from streamer.config import Size
from streamer.jobs.completed import GONE
from streamer.jobs.retention import FULL
from streamer.jobs.times import JobTimes
from streamer.server import serving
from streamer.server.tuning import Tuning
from streamer.spool.writer import WriteLimits
from tests.conftest import Configure, Gated, Serve, Server, files_in
from tests.exporting import RemoteExport, create, read_problem, sha256
from tests.gates import Gates, Steps, gated_csv, gated_sha256

BLOCK_SIZE, FREE_BLOCKS = 1, 4  # indexes in the result of statvfs
UNCACHED = Tuning(jobs=JobTimes(cache_lifetime=0.0))
REFUSED = (("POST", "/exports/csv"), ("POST", "/exports"), ("GET", "/exports/csv"))


async def refuse_new(session: aiohttp.ClientSession, server: Server) -> None:
    """Asserts that every way to create an export gets 507, and leaves nothing."""
    for method, path in REFUSED:
        async with session.request(method, f"{server.url}{path}", params=dataset(server)) as response:
            problem = await read_problem(response, 507)
            assert problem["detail"] == FULL
            assert problem["type"] == "urn:streamer:problem:insufficient-storage"
            assert int(response.headers["Retry-After"]) > 0


def dataset(server: Server) -> dict[str, str]:
    return {"dataset": server.settings.datasets[0]}


async def still_works(session: aiohttp.ClientSession, server: Server, expected: str | None = None) -> None:
    async with session.get(f"{server.url}/health") as response:
        assert response.status == 200
    export = await create(session, server.url, **dataset(server))
    assert sha256(await export.body()) == (await export.until("completed"))["sha256"] == (expected or gated_sha256())


# No room


async def test_a_full_folder_answers_507_until_an_export_is_deleted(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    server = await serve(spool_max_bytes=Size(1_000_000), tuning=Tuning(recount=0.0), **gates.settings)
    foreign = server.spool / "00000000-0000-0000-0000-000000000000.csv"  # without a row, so that it cannot be evicted
    foreign.write_bytes(bytes(1_000_000))
    await refuse_new(session, server)
    assert await gates.connection.fetchval("SELECT count(*) FROM streamer.exports") == 0
    assert server.files() == {foreign.name}
    foreign.unlink()
    await still_works(session, server)


async def test_a_reached_disk_reserve_answers_507_and_completed_exports_are_served(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gates.view("gated")
    server = await serve(spool_disk_reserve=Size(1000), **gates.settings)
    export = await create(session, server.url, dataset="gated")
    await export.until("completed")
    free = 1000
    monkeypatch.setattr(os, "statvfs", filled(lambda: free))
    async with session.get(export.download) as follower:
        await refuse_new(session, server)
        assert sha256(await follower.read()) == gated_sha256()
    free = 1001 - 20_000_000  # far more is missing than all exports have
    await refuse_new(session, server)
    assert sha256(await export.body()) == gated_sha256()
    free = 1001
    await still_works(session, server)


async def test_no_more_is_evicted_than_necessary_if_the_disk_shows_free_space_late(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems free space later, and others may take it."""
    await gates.view("gated")
    server = await serve(spool_disk_reserve=Size(1000), **gates.settings)
    exports = [await create(session, server.url, dataset="gated") for _ in range(3)]
    for export in exports:
        await export.until("completed")
    monkeypatch.setattr(os, "statvfs", filled(lambda: 1000))
    for _ in range(2):
        await refuse_new(session, server)
    removed = [(await export.status())["removedAt"] is not None for export in exports]
    assert sum(removed) == 1


def filled(free: Callable[[], int]) -> Callable[[Path], os.statvfs_result]:
    """Returns the statvfs of a disk with this number of free bytes."""
    statvfs = os.statvfs

    def told(path: Path) -> os.statvfs_result:
        found = list(statvfs(path))
        found[BLOCK_SIZE], found[FREE_BLOCKS] = 1, free()
        return os.statvfs_result(found)

    return told


@pytest.mark.parametrize("streamed", [False, True], ids=["unread", "followed"])
async def test_a_folder_that_becomes_full_fails_the_export_and_removes_its_file(
    gated: Gated, gates: Gates, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    tuning = Tuning(write_limits=WriteLimits(write_back=1_000_000))
    server, export = await gated(10_000, spool_max_bytes=Size(3_000_000), tuning=tuning)
    await gates.reached("gated", 10_000)
    if streamed:
        async with session.get(export.download) as follower:
            await follower.content.readexactly(1000)
            await gates.open("gated", 10_000)
            with pytest.raises(aiohttp.ClientPayloadError):
                await follower.read()
    else:
        await gates.open("gated", 10_000)
    status = await export.until("failed")
    assert (status["error"], status["attempts"]) == (FULL, 1)
    assert status["progress"]["bytes"] < 6_000_000
    await server.holds()
    async with session.get(export.download) as response:
        assert FULL in (await read_problem(response, 409))["detail"]


# A disk that fails


class FailingDisk:
    """`os.write` and `os.fsync` of the files of exports, which fail at a command of the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.write_error: int | None = None
        self.sync_error: int | None = None
        self.left: int | None = None  # bytes that are still written, in short pieces
        self.syncs = 0
        self._write, self._fsync = os.write, os.fsync
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "fsync", self.fsync)

    def write(self, fd: int, piece: memoryview) -> int:
        if self.left is not None:
            piece, self.left = piece[: min(1000, self.left)], self.left - min(1000, self.left, len(piece))
            if not piece:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.write_error is not None:
            raise OSError(self.write_error, os.strerror(self.write_error))
        return self._write(fd, piece)

    def fsync(self, fd: int) -> None:
        self.syncs += Path(f"/proc/self/fd/{fd}").readlink().suffix == Coding.IDENTITY.suffix
        if self.sync_error is not None:
            raise OSError(self.sync_error, os.strerror(self.sync_error))
        self._fsync(fd)

    def repair(self) -> None:
        self.write_error = self.sync_error = self.left = None


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FailingDisk:
    return FailingDisk(monkeypatch)


def fails_with(number: int) -> Callable[[FailingDisk], None]:
    return lambda disk: setattr(disk, "write_error", number)


FAULTS: dict[str, tuple[Callable[[FailingDisk], None], int]] = {
    "full": (fails_with(errno.ENOSPC), errno.ENOSPC),
    "quota": (fails_with(errno.EDQUOT), errno.EDQUOT),
    "broken": (fails_with(errno.EIO), errno.EIO),
    "read_only": (fails_with(errno.EROFS), errno.EROFS),
    "short_write": (lambda disk: setattr(disk, "left", 12_345), errno.ENOSPC),
    "fsync": (lambda disk: setattr(disk, "sync_error", errno.EIO), errno.EIO),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_disk_that_fails_fails_the_export_and_not_the_server(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, disk: FailingDisk, fault: str
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 10_000)
    server = await serve(max_concurrent_exports=1, **gates.settings)
    followed, waiting = [await create(session, server.url, dataset="gated") for _ in range(2)]
    break_it, number = FAULTS[fault]
    async with session.get(followed.download) as follower:
        await follower.content.readexactly(1000)
        await gates.reached("gated", 10_000)
        break_it(disk)
        await gates.open("gated", 10_000)
        with pytest.raises(aiohttp.ClientPayloadError):
            await follower.read()
    for export in (followed, waiting):  # one with a reader, one without: a disk is no transient failure
        status = await export.until("failed")
        assert status["error"] == f"the export's file could not be written: {os.strerror(number)}"
        assert (status["attempts"], status["sha256"]) == (1, None)
        async with session.get(export.download) as response:
            assert status["error"] in (await read_problem(response, 409))["detail"]
    await server.holds()
    if fault == "fsync":
        assert disk.syncs == 2  # never a second time for the same file
    disk.repair()
    await gates.nobody_works()
    await still_works(session, server)


async def test_a_file_that_cannot_be_read_breaks_its_follower_and_the_export_goes_on(
    gated: Gated, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server, export = await gated(50_000)
    await gates.reached("gated", 50_000)
    file, away = server.spool / export.file_name, server.spool / "away"
    async with session.get(export.download) as whole:
        first = await whole.content.readexactly(1000)
        file.rename(away)
        async with session.get(export.download) as broken:
            with pytest.raises(aiohttp.ClientPayloadError):
                await broken.read()
        away.rename(file)
        await gates.open("gated", 50_000)
        assert sha256(first + await whole.read()) == gated_sha256()
    assert sha256(await export.body()) == gated_sha256()


# Sealed files that were changed


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda file: os.truncate(file, file.stat().st_size - 1),
    "empty": lambda file: os.truncate(file, 0),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"\n"),
    "one_bit": flip_a_bit,
    "missing": lambda file: file.unlink(),
}


@pytest.mark.parametrize(
    "fields",
    [{}, {"Range": "bytes=0-9"}, {"Accept-Encoding": "gzip"}, {"Range": "bytes=0-0, 5-6"}],
    ids=["whole", "range", "gzip", "ranges"],
)
async def test_a_damaged_file_gets_410_after_a_restart_for_every_kind_of_request(
    configure: Configure, session: aiohttp.ClientSession, fields: dict[str, str]
) -> None:
    settings = configure()
    exports: dict[str, RemoteExport] = {}
    async with serving(settings) as url:
        for damage in (*DAMAGE, "none"):
            exports[damage] = await create(session, url, columns="id", country_code="JP")
            await exports[damage].until("completed")
        expected = await exports["none"].body()
    for name, do_damage in DAMAGE.items():
        do_damage(settings.export_storage_path / exports[name].file_name)
    async with serving(settings) as url:
        for name in DAMAGE:
            for _ in range(2):
                async with session.get(f"{url}{exports[name].path}", headers=fields) as response:
                    assert (await read_problem(response, 410))["detail"] == GONE
        intact = RemoteExport(session, url, exports["none"].id)
        assert sha256(await intact.body()) == sha256(expected)


async def test_a_file_that_is_truncated_while_the_server_runs_is_410(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    server = await serve(tuning=UNCACHED)
    export = await create(session, server.url, columns="id")
    await export.until("completed")
    os.truncate(server.spool / export.file_name, 1000)
    async with session.get(export.download) as response:
        assert (await read_problem(response, 410))["detail"] == GONE


async def test_a_file_that_is_overwritten_in_place_while_the_server_runs_is_410(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    """Its length and its inode stay the same."""
    server = await serve(tuning=UNCACHED)
    export, touched = [await create(session, server.url, columns="id") for _ in range(2)]
    expected = (await touched.until("completed"))["sha256"]
    await export.until("completed")
    assert sha256(await export.body()) == expected
    with (server.spool / export.file_name).open("r+b") as file:
        file.seek(1000)
        file.write(b"x")
    (server.spool / touched.file_name).touch()
    for fields in ({}, {"Range": "bytes=0-9"}):
        async with session.get(export.download, headers=fields) as response:
            assert (await read_problem(response, 410))["detail"] == GONE
    assert sha256(await touched.body()) == expected


async def test_a_damaged_file_that_is_replaced_by_an_intact_copy_is_served_again(
    configure: Configure, session: aiohttp.ClientSession
) -> None:
    """The damaged file is still open, and none of its bytes is served although the new file is intact."""
    settings = configure()
    async with serving(settings) as url:
        export = await create(session, url, columns="id")
        expected = (await export.until("completed"))["sha256"]
    file = settings.export_storage_path / export.file_name
    copy = file.with_name("copy")
    shutil.copy(file, copy)
    flip_a_bit(file)
    async with serving(settings, tuning=Tuning(jobs=JobTimes(cache_lifetime=3600.0))) as url:
        again = RemoteExport(session, url, export.id)
        async with session.head(again.download) as head:
            assert head.status == 200
        copy.rename(file)
        async with session.get(again.download) as response:
            await read_problem(response, 503)
        assert sha256(await again.body()) == expected


# A file system that is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yields a file system of four megabytes and twenty files."""
    with mounted(tmp_path / "small", "size=4m,nr_inodes=20") as folder:
        yield folder


@pytest.fixture
def disk_of_64_megabytes(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "small", "size=64m") as folder:
        yield folder


@contextmanager
def mounted(folder: Path, limits: str) -> Iterator[Path]:
    folder.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a file system of its own")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", limits, "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"this machine does not let a file system be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


async def test_a_file_system_without_inodes_answers_507(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, small_disk: Path
) -> None:
    await gates.view("little", rows=20_000)
    server = await serve(export_storage_path=small_disk, spool_disk_reserve=Size(0), **gates.settings)
    for number in range(os.statvfs(small_disk).f_favail):
        (small_disk / f"ballast-{number}").touch()
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "one-more").touch()
    await refuse_new(session, server)
    for number in range(4):
        (small_disk / f"ballast-{number}").unlink()
    little = await create(session, server.url, dataset="little")
    assert sha256(await little.body()) == sha256(gated_csv(20_000))


async def test_a_full_file_system_fails_the_export_and_answers_507_until_there_is_room(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, small_disk: Path
) -> None:
    await gates.view("gated")
    await gates.view("little", rows=20_000)
    server = await serve(export_storage_path=small_disk, spool_disk_reserve=Size(0), **gates.settings)
    export = await create(session, server.url, dataset="gated")
    with pytest.raises(aiohttp.ClientError):
        await export.body()
    assert "No space left on device" in (await export.until("failed"))["error"]
    await server.holds()
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(bytes(8 * 1024 * 1024))
    await refuse_new(session, server)
    ballast.unlink()
    little = await create(session, server.url, dataset="little")
    assert sha256(await little.body()) == sha256(gated_csv(20_000))
    await little.until("completed")
    assert files_in(small_disk) == {little.file_name}


async def test_a_disk_smaller_than_the_reserve_is_logged_at_the_start(
    serve: Serve, session: aiohttp.ClientSession, disk_of_64_megabytes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = await serve(export_storage_path=disk_of_64_megabytes)
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert warning.startswith(f"EXPORT_STORAGE_PATH: the disk of {disk_of_64_megabytes} has 64 MB ")
    assert "SPOOL_DISK_RESERVE keeps 256 MB" in warning
    await refuse_new(session, server)


async def test_a_disk_with_room_or_without_a_reserve_is_not_logged(
    serve: Serve, disk_of_64_megabytes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for reserve in (0, 32 * 1024 * 1024):
        await serve(export_storage_path=disk_of_64_megabytes, spool_disk_reserve=Size(reserve))
    (disk_of_64_megabytes / f"{uuid4()}{Coding.IDENTITY.suffix}").write_bytes(bytes(40 * 1024 * 1024))  # can be evicted
    await serve(export_storage_path=disk_of_64_megabytes, spool_disk_reserve=Size(32 * 1024 * 1024))
    assert not [record for record in caplog.records if "SPOOL_DISK_RESERVE" in record.getMessage()]


async def test_concurrent_exports_exceed_the_reserve_by_at_most_two_megabytes_each(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, disk_of_64_megabytes: Path
) -> None:
    """Together they would write 90 MB, and each less than is written between two scans of the folder."""
    reserve, running = 24 * 1024 * 1024, 6
    await gates.make(Steps("rows", rows=9500, gates=(2,), width=50))
    await gates.shut("rows", 2)
    server = await serve(
        export_storage_path=disk_of_64_megabytes,
        spool_disk_reserve=Size(reserve),
        max_concurrent_exports=running,
        **gates.settings,
    )
    least = os.statvfs(disk_of_64_megabytes).f_bavail
    exports = [await create(session, server.url, dataset="rows") for _ in range(running)]
    for export in exports:
        await export.until("processing")
    await gates.open("rows", 2)
    statuses: list[dict[str, Any]] = []
    while sum(status["status"] in {"completed", "failed"} for status in statuses) < running:
        least = min(least, os.statvfs(disk_of_64_megabytes).f_bavail)
        statuses = [await export.status() for export in exports]
    assert {status["error"] for status in statuses} == {None, FULL}
    assert least * os.statvfs(disk_of_64_megabytes).f_frsize >= reserve - running * 2 * 1024 * 1024
