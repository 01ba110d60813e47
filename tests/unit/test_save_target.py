"""The path of a download: names, symbolic links, permissions, and one sentence for an error of the file system."""

import asyncio
import os
import stat
from pathlib import Path

import pytest

from streamer.client.errors import LocalFileError
from streamer.client.partial import PartialFile
from streamer.client.saving import check_target
from streamer.client.target import part_path, windows_name_error
from tests.unit.test_partial import ADDRESS, CSV

UNPRIVILEGED = 65534


async def save(target: Path, content: bytes, *, force: bool = False) -> None:
    with PartialFile(target) as part:
        part.begin(ADDRESS, CSV, force=force)
        await part.append(content)
        await part.flush()
        await part.finish(force=force)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("users_US_2026-11-21.csv", None),
        ("export_b42ef8e9-f053-4b3b-ac2a-212af6ebadc3.csv", None),
        ("käufer 2.csv", None),
        ("console.csv", None),
        ("com10.csv", None),
        (".csv", None),
        ("a:b.csv", "it has the character :"),
        ("what?.csv", "it has the character ?"),
        ("a\tb", "it has the character \\t"),
        ("a|b", "it has the character |"),
        ("users.csv.", "it ends with a space or a dot"),
        ("users ", "it ends with a space or a dot"),
        ("NUL", "NUL is a device"),
        ("con.csv", "CON is a device"),
        ("LPT¹.txt", "LPT¹ is a device"),
        ("aux .tar.gz", "AUX is a device"),
        ("com1", "COM1 is a device"),
        ("conout$", "CONOUT$ is a device"),
    ],
)
def test_names_that_windows_reserves_are_errors(name: str, error: str | None) -> None:
    assert windows_name_error(name) == error


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("relative", [False, True])
def test_a_symbolic_link_stays_and_its_file_is_written(tmp_path: Path, exists: bool, relative: bool) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    real, link = folder / "real.csv", tmp_path / "link.csv"
    link.symlink_to(Path("elsewhere/real.csv") if relative else real)
    if exists:
        real.write_bytes(b"old")
    check_target(link, force=True, new=True)
    assert part_path(link) == folder / "real.csv.part"
    asyncio.run(save(link, b"new", force=True))
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert [path.name for path in folder.iterdir()] == ["real.csv"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
def test_a_replaced_file_and_its_part_keep_the_permissions(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "x.csv"
    target.write_bytes(b"old")
    target.chmod(mode)
    with PartialFile(target) as part:
        part.begin(ADDRESS, CSV, force=True)
        assert mode_of(part.path) == mode | 0o600
    asyncio.run(save(target, b"new", force=True))
    assert (target.read_bytes(), mode_of(target)) == (b"new", mode)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        asyncio.run(save(tmp_path / "x.csv", b"new"))
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "x.csv") == 0o666 & ~umask


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("x" * 300, "File name too long"),
        ("x" * 252, "File name too long"),  # with .part
        ("folder", "is not a regular file"),
        ("", "is not a regular file"),
        ("missing/x.csv", "the folder .*missing does not exist"),
        ("file/x.csv", "Not a directory"),
        ("a\0b", "cannot be the name of a file"),
        ("a\ud800b", "cannot be the name of a file"),
        ("loop", "Too many levels of symbolic links"),
        ("to-a-missing-folder", "the folder .*missing does not exist"),
        ("/dev/full", "is not a regular file"),
    ],
)
def test_a_path_that_cannot_be_a_file_is_one_sentence(tmp_path: Path, name: str, sentence: str, new: bool) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "to-a-missing-folder").symlink_to("missing/x.csv")
    with pytest.raises(LocalFileError, match=sentence) as found:
        check_target(tmp_path / name if name else Path(), force=False, new=new)
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < 300


def test_a_folder_without_permission_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o600)
    user = os.geteuid()
    os.seteuid(user or UNPRIVILEGED)  # root may enter every folder
    try:
        with pytest.raises(LocalFileError, match=r"Permission denied$"):
            check_target(folder / "x.csv", force=False, new=False)
    finally:
        os.seteuid(user)
        folder.chmod(0o700)
