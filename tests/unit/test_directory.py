"""The folder of spools: names, opening what was sealed, and leaving alone what is not ours."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from streamer.errors import StartError
from streamer.spool.directory import SpoolDirectory

CONTENT = b"id\n1\n2\n"


async def no_question() -> None:
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


def test_prepare_makes_the_folder_and_leaves_nothing_in_it(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    path = tmp_path / "var" / "spool"
    SpoolDirectory(path, executor).prepare()
    SpoolDirectory(path, executor).prepare()
    assert path.is_dir()
    assert list(path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "deeper"])
def test_prepare_where_a_file_is_in_the_way_is_a_start_error(
    tmp_path: Path, executor: ThreadPoolExecutor, below: str
) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    path = tmp_path / "file" / below
    with pytest.raises(StartError, match=r"^EXPORT_STORAGE_PATH: cannot write to ") as refused:
        SpoolDirectory(path, executor).prepare()
    assert str(path) in str(refused.value)
    assert str(refused.value).isprintable()
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_prepare_where_nothing_can_be_written_is_a_start_error(
    tmp_path: Path, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, content: bytes) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(StartError, match=r"^EXPORT_STORAGE_PATH: .*Permission denied$"):
        SpoolDirectory(tmp_path, executor).prepare()


async def test_created_spool_has_its_name_and_no_file_until_it_is_opened(directory: SpoolDirectory) -> None:
    export_id = uuid4()
    spool = directory.create(export_id, no_question)
    assert spool.path == directory.file_of(export_id)
    assert not spool.path.exists()
    assert directory.export_ids() == set()
    spool.open()
    assert directory.export_ids() == {export_id}
    await spool.append(CONTENT, 2)
    sealed = await spool.finish()
    spool.seal()
    with directory.open(export_id, sealed.length) as file:
        assert file.read() == CONTENT


def test_every_opening_has_a_place_of_its_own(directory: SpoolDirectory, kept: UUID) -> None:
    with directory.open(kept, len(CONTENT)) as first, directory.open(kept, len(CONTENT)) as second:
        assert first.fileno() != second.fileno()
        assert first.read() == CONTENT
        assert second.read() == CONTENT


@pytest.mark.parametrize("length", [0, len(CONTENT) - 1, len(CONTENT) + 1])
def test_file_of_another_length_than_sealed_is_not_there(directory: SpoolDirectory, kept: UUID, length: int) -> None:
    with pytest.raises(FileNotFoundError, match=f"has not the {length} bytes it was sealed with"):
        directory.open(kept, length)


def test_missing_file_is_not_there(directory: SpoolDirectory) -> None:
    with pytest.raises(FileNotFoundError):
        directory.open(uuid4(), 0)


def test_removed_file_is_read_to_its_end_by_who_has_it_open(directory: SpoolDirectory, kept: UUID) -> None:
    with directory.open(kept, len(CONTENT)) as file:
        directory.remove(kept)
        assert file.read() == CONTENT
    assert not directory.file_of(kept).exists()
    with pytest.raises(FileNotFoundError):
        directory.open(kept, len(CONTENT))


def test_remove_touches_only_its_own_export_and_may_be_repeated(directory: SpoolDirectory, kept: UUID) -> None:
    directory.remove(uuid4())
    assert directory.export_ids() == {kept}
    directory.remove(kept)
    directory.remove(kept)
    assert directory.export_ids() == set()


def test_export_ids_are_of_files_named_exactly_as_ours(directory: SpoolDirectory, kept: UUID, tmp_path: Path) -> None:
    strange = uuid4()
    for name in (
        f"{strange}.csv.part",
        f"{strange}",
        f"{str(strange).upper()}X.csv",
        "ABCDEF01-2345-4678-89AB-CDEF01234567.csv",
        f"{strange.hex}.csv",
        f"{{{strange}}}.csv",
        f"urn:uuid:{strange}.csv",
        "report.csv",
        ".csv",
        ".gitkeep",
        ".probe-1",
    ):
        (tmp_path / name).write_bytes(b"")
    assert directory.export_ids() == {kept}


def test_export_ids_of_a_folder_that_is_not_there_are_none(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    assert SpoolDirectory(tmp_path / "missing", executor).export_ids() == set()
