"""FILE.part.json: written atomically, read leniently, compared with an export."""

from pathlib import Path
from uuid import UUID

import pytest

from streamer.client.errors import LocalFileError, Replaced
from streamer.client.metadata import Metadata, MetadataFile, mismatch
from streamer.coding import Coding
from streamer.protocol.ranges import Slice

ID = UUID("b42ef8e9-f053-4b3b-ac2a-212af6ebadc3")
METADATA = Metadata(ID, f"http://127.0.0.1:8080/exports/{ID}/download", '"tag"')
OF_EARLIER_VERSIONS = f'{{"exportId":"{ID}","url":"{METADATA.url}","etag":"\\"tag\\"","pieces":[[0,3]]}}\n'
GZIP = Metadata(ID, f"http://127.0.0.1:8080/exports/{ID}/download.csv.gz", '"gz"', coding=Coding.GZIP)
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
    """An earlier version of the client may read the file; it ignores members that it does not know."""
    MetadataFile(tmp_path / PART).write(METADATA.with_slices([Slice(0, 3)]))
    expected = OF_EARLIER_VERSIONS.replace("}", ',"coding":"identity"}')
    assert (tmp_path / "x.csv.part.json").read_text() == expected


def test_a_file_of_an_earlier_version_is_that_of_a_csv(tmp_path: Path) -> None:
    (tmp_path / "x.csv.part.json").write_text(OF_EARLIER_VERSIONS)
    assert MetadataFile(tmp_path / PART).read() == METADATA.with_slices([Slice(0, 3)])
    assert METADATA.coding is Coding.IDENTITY


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"exportId": "x"}'])
def test_a_damaged_file_is_no_metadata(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.csv.part.json").write_bytes(content)
    assert MetadataFile(tmp_path / PART).read() is None


def test_slices_are_merged_and_none_for_a_sequential_part() -> None:
    assert METADATA.slices is None
    assert METADATA.with_slices([Slice(3, 5), Slice(0, 3)]).slices == [Slice(0, 5)]


@pytest.mark.parametrize(
    ("found", "export_id", "etag", "coding", "expected", "sentence"),
    [
        (None, ID, '"tag"', Coding.IDENTITY, LocalFileError, "its export is not known"),
        (METADATA, UUID(int=1), '"tag"', Coding.IDENTITY, LocalFileError, "a part of another export"),
        (METADATA, None, None, Coding.IDENTITY, LocalFileError, "a part of another export"),
        (METADATA, ID, '"other"', Coding.IDENTITY, Replaced, "the export was replaced"),
        (GZIP, ID, '"other"', Coding.GZIP, Replaced, "the export was replaced"),
        (METADATA, ID, '"gz"', Coding.GZIP, LocalFileError, "finish that download without --gzip"),
        (METADATA, ID, None, Coding.ZSTD, LocalFileError, "has the identity bytes"),
        (GZIP, ID, '"tag"', Coding.IDENTITY, LocalFileError, "finish that download with --gzip or --compressed"),
        (GZIP, ID, None, Coding.ZSTD, LocalFileError, "has the gzip bytes"),
    ],
)
def test_other_bytes_are_an_error(
    *,
    found: Metadata | None,
    export_id: UUID | None,
    etag: str | None,
    coding: Coding,
    expected: type[Exception],
    sentence: str,
) -> None:
    error = mismatch(PART, found, export_id=export_id, etag=etag, coding=coding)
    assert isinstance(error, expected)
    assert sentence in str(error)


@pytest.mark.parametrize(("found", "etag"), [(METADATA, '"tag"'), (GZIP, '"gz"'), (GZIP, None)])
def test_bytes_of_the_same_representation_are_no_error(found: Metadata, etag: str | None) -> None:
    assert mismatch(PART, found, export_id=ID, etag=etag, coding=found.coding) is None
