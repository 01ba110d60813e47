"""FILE.part.json: written atomically, read leniently, compared with an export."""

from pathlib import Path
from uuid import UUID

import pytest

from streamer.client.errors import LocalFileError, Replaced
from streamer.client.metadata import Metadata, MetadataFile, mismatch
from streamer.protocol.ranges import Slice

ID = UUID("b42ef8e9-f053-4b3b-ac2a-212af6ebadc3")
METADATA = Metadata(ID, f"http://127.0.0.1:8080/exports/{ID}/download", '"tag"')
PART = Path("x.csv.part")


def test_metadata_is_read_back_and_leaves_no_other_file(tmp_path: Path) -> None:
    file = MetadataFile(tmp_path / "x.csv.part")
    for metadata in (METADATA, METADATA.with_slices([Slice(0, 3), Slice(7, 9)])):
        file.write(metadata)
        assert file.read() == metadata
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv.part.json"]
    file.remove()
    file.remove()
    assert file.read() is None


def test_the_members_of_the_file_stay_the_same(tmp_path: Path) -> None:
    """An earlier version of the client may have written the file."""
    MetadataFile(tmp_path / PART).write(METADATA.with_slices([Slice(0, 3)]))
    expected = f'{{"exportId":"{ID}","url":"{METADATA.url}","etag":"\\"tag\\"","pieces":[[0,3]]}}\n'
    assert (tmp_path / "x.csv.part.json").read_text() == expected


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"exportId": "x"}'])
def test_a_damaged_file_is_no_metadata(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.csv.part.json").write_bytes(content)
    assert MetadataFile(tmp_path / PART).read() is None


def test_slices_are_merged_and_none_for_a_sequential_part() -> None:
    assert METADATA.slices is None
    assert METADATA.with_slices([Slice(3, 5), Slice(0, 3)]).slices == [Slice(0, 5)]


@pytest.mark.parametrize(
    ("found", "export_id", "etag", "expected", "sentence"),
    [
        (None, ID, '"tag"', LocalFileError, "its export is not known"),
        (METADATA, UUID(int=1), '"tag"', LocalFileError, "a part of another export"),
        (METADATA, None, "", LocalFileError, "a part of another export"),
        (METADATA, ID, '"other"', Replaced, "the export was replaced"),
    ],
)
def test_bytes_of_another_export_are_an_error(
    found: Metadata | None, export_id: UUID | None, etag: str, expected: type[Exception], sentence: str
) -> None:
    error = mismatch(PART, found, export_id=export_id, etag=etag)
    assert isinstance(error, expected)
    assert sentence in str(error)


def test_bytes_of_the_same_export_are_no_error() -> None:
    assert mismatch(PART, METADATA, export_id=ID, etag='"tag"') is None
