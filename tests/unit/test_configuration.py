"""The file of datasets: its format, and its values as a request would write them."""

from datetime import UTC, date, datetime, time
from pathlib import Path

import pytest

from streamer.errors import StartError
from streamer.source.catalog.configuration import DatasetConfig, read_configuration, texts_of


def read(folder: Path, text: str | bytes) -> dict[str, DatasetConfig]:
    file = folder / "datasets.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return dict(read_configuration(file))


def test_no_file_configures_nothing() -> None:
    assert read_configuration(None) == {}


def test_an_empty_file_configures_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, "") == {}


def test_the_example_of_the_documentation_is_read(tmp_path: Path) -> None:
    text = """
        [datasets.orders]
        relation = "sales.orders"
        description = "One row for each order"
        hidden = ["card_number"]
        filters = { tenant = 7, deleted_at__isnull = true }
        required = ["placed_at"]
        order_by = ["-placed_at", "id"]
        limit = 100000
        [datasets."a b"]
        columns = ["id"]
        order_by = "id"
    """
    found = read(tmp_path, text)
    assert found["orders"] == DatasetConfig(
        relation="sales.orders",
        description="One row for each order",
        hidden=("card_number",),
        filters={"tenant": 7, "deleted_at__isnull": True},
        required=("placed_at",),
        order_by=("-placed_at", "id"),
        limit=100_000,
    )
    assert found["orders"].order == ("-placed_at", "id")
    assert (found["a b"].columns, found["a b"].order, found["a b"].limit) == (("id",), ("id",), None)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("datasets = 1", r"datasets must be a table such as \[datasets\.orders\]"),
        ("[datasets]\na = 1", r"datasets\.a must be a table"),
        ("[datasets.a]\nlimit = 0", r"datasets\.a\.limit must be at least 1"),
        ("[datasets.a]\nlimit = 'x'", r"datasets\.a\.limit must be a whole number"),
        ("[datasets.a]\nhidden = 'x'", r"datasets\.a\.hidden must be a list"),
        ("[datasets.a]\norder_by = 1", r"datasets\.a\.order_by must be (a text or a list|a list or a text)"),
        ("[datasets.a]\nhidden = ['']", r"datasets\.a\.hidden\[0\] must not be empty"),
        ("[datasets.a]\nhide = ['x']", r"datasets\.a: there is no entry 'hide'; (did you mean hidden\?|allowed are )"),
        ("[datasets.a]\norder-by = ['x']", r"datasets\.a: there is no entry 'order-by'; did you mean order_by\?"),
        ("[data]\na = 1", r"unknown entry 'data'; each dataset is a table such as \[datasets\.orders\]"),
        ("[datasets.a]\nlimit = 1\nlimit = 2", "is not TOML: "),
        (b"\xff", "is not TOML: "),
    ],
)
def test_an_invalid_file_is_refused_in_one_line_with_the_place(
    tmp_path: Path, text: str | bytes, complaint: str
) -> None:
    with pytest.raises(StartError, match=rf"^DATASETS_FILE: [^\n]*{complaint}[^\n]*$"):
        read(tmp_path, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"^DATASETS_FILE: .*nothing\.toml cannot be read: No such file or directory$"):
        read_configuration(tmp_path / "nothing.toml")
    with pytest.raises(StartError, match=r"^DATASETS_FILE: .* cannot be read: Is a directory$"):
        read_configuration(tmp_path)


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("x", ["x"]),
        (7, ["7"]),
        (1.5, ["1.5"]),
        (True, ["true"]),
        ([False, 1, "b"], ["false", "1", "b"]),
        (date(2024, 2, 29), ["2024-02-29"]),
        (datetime(2024, 2, 29, 12, tzinfo=UTC), ["2024-02-29T12:00:00+00:00"]),
        (time(12, 30), ["12:30:00"]),
    ],
)
def test_a_value_becomes_the_text_of_a_request(value: object, texts: list[str]) -> None:
    assert texts_of(value) == texts


@pytest.mark.parametrize("value", [[], {}, [[1]], [{"a": 1}]])
def test_a_value_of_another_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^must "):
        texts_of(value)
