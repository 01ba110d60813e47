"""The names of spools: one form for each coding, and nothing else is a spool."""

from uuid import UUID

import pytest

from streamer.coding import Coding
from streamer.spool.names import SpoolName

ID = UUID("0f2ab9b4-0000-4000-8000-00000000000a")


@pytest.mark.parametrize(("coding", "suffix"), [("identity", ".csv"), ("gzip", ".csv.gz"), ("zstd", ".csv.zst")])
def test_name_is_the_id_and_the_suffix_of_the_coding(coding: str, suffix: str) -> None:
    name = SpoolName(ID, Coding(coding))
    assert name.file_name == f"{ID}{suffix}"
    assert SpoolName.parse(name.file_name) == name


def test_spool_without_a_coding_is_the_csv() -> None:
    assert SpoolName(ID) == SpoolName(ID, Coding.IDENTITY)


@pytest.mark.parametrize(
    "file_name",
    [
        "",
        ".csv",
        ".csv.gz",
        str(ID),
        f"{ID}.gz",
        f"{ID}.zst",
        f"{ID}.csv.br",
        f"{ID}.csv.gz.csv",
        f"{ID}.csv.csv",
        f"{ID}.CSV",
        f"{ID}.csv.GZ",
        f"{ID}.csv.gz ",
        f"{ID}.csv.gz.tmp",
        f"{str(ID).upper()}.csv.gz",
        f"{ID.hex}.csv",
        f"{{{ID}}}.csv",
        f"urn:uuid:{ID}.csv.zst",
        "users.csv.gz",
        "\udc80.csv.gz",
    ],
)
def test_file_of_any_other_form_is_no_spool(file_name: str) -> None:
    assert SpoolName.parse(file_name) is None
