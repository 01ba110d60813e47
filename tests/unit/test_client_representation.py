"""What the client reads in a status about the CSV and the compressed files, and what it transfers and saves."""

import pytest
from msgspec.structs import replace

from streamer.client.representation import Representation, Transfer
from streamer.coding import Coding
from streamer.schema import RepresentationStatus
from tests.unit.test_partial import STATUS

GZIP = RepresentationStatus(state="completed", etag='"gz"', bytes=30, sha256="ab")


def test_the_csv_is_as_complete_as_the_export() -> None:
    found = Representation.of(STATUS, Coding.IDENTITY)
    assert (found.etag, found.completed, found.bytes) == ('"tag"', True, 90)


@pytest.mark.parametrize(
    ("made", "etag", "completed", "sha256"),
    [
        (GZIP, '"gz"', True, "ab"),
        (replace(GZIP, state="processing", sha256=None), '"gz"', False, None),
        (replace(GZIP, state="failed", sha256=None), None, False, None),
        (replace(GZIP, state="a newer one", sha256=None), '"gz"', False, None),
        (None, None, False, None),
    ],
)
def test_a_compressed_file_has_a_state_of_its_own(
    made: RepresentationStatus | None, etag: str | None, completed: bool, sha256: str | None
) -> None:
    status = replace(STATUS, representations={"zstd": GZIP} if made is None else {"gzip": made})
    found = Representation.of(status, Coding.GZIP)
    assert (found.etag, found.completed, found.sha256) == (etag, completed, sha256)


def test_a_status_without_compressed_files_has_none() -> None:
    assert Representation.of(STATUS, Coding.GZIP).etag is None


@pytest.mark.parametrize(
    ("coding", "decode", "named", "transferred", "saved"),
    [
        (None, False, "identity", "identity", "identity"),
        (None, True, "identity", "gzip", "identity"),
        ("gzip", False, "identity", "gzip", "gzip"),
        ("zstd", True, "identity", "zstd", "identity"),
        ("identity", True, "gzip", "identity", "identity"),
        (None, False, "zstd", "zstd", "zstd"),
        (None, True, "zstd", "zstd", "identity"),
        ("gzip", False, "zstd", "gzip", "gzip"),
    ],
)
def test_a_transfer_is_what_was_asked_for_or_what_the_url_names(
    coding: str | None, decode: bool, named: str, transferred: str, saved: str
) -> None:
    transfer = Transfer.of(coding, decode=decode, named=Coding(named))
    assert (transfer.coding, transfer.file_coding) == (transferred, saved)


def test_an_unknown_coding_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="'br' is not a valid Coding"):
        Transfer.of("br", decode=False)
