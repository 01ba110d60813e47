"""The catalog: it is replaced at once, and a dataset is an immutable value."""

import asyncio
from collections.abc import Mapping

import pytest

from streamer.errors import StartError
from streamer.source.catalog.catalog import Catalog
from streamer.source.dataset import Column, Dataset


def dataset(name: str, *columns: str) -> Dataset:
    return Dataset(
        name=name,
        schema="public",
        relation=name,
        columns={column: Column(name=column, declared="text", type="text", length=None) for column in columns},
    )


async def test_a_dataset_is_unchanged_when_the_catalog_is_read_again() -> None:
    async def read() -> Mapping[str, Dataset]:
        return {"b": dataset("b"), "a": dataset("a", "later")}

    catalog = Catalog({"a": dataset("a", "before")}, read)
    taken, names = catalog["a"], iter(catalog)
    await catalog.reread()
    assert list(taken.columns) == ["before"]
    assert list(names) == ["a"]
    assert list(catalog) == ["b", "a"]
    assert list(catalog["a"].columns) == ["later"]


async def test_nothing_changes_until_everything_is_read() -> None:
    going_on, read_whole = asyncio.Event(), asyncio.Event()

    async def read() -> Mapping[str, Dataset]:
        going_on.set()
        await read_whole.wait()
        return {"b": dataset("b")}

    catalog = Catalog({"a": dataset("a")}, read)
    reading = asyncio.create_task(catalog.reread())
    await going_on.wait()
    assert list(catalog) == ["a"]
    read_whole.set()
    await reading
    assert list(catalog) == ["b"]


async def test_a_failed_read_changes_nothing() -> None:
    async def read() -> Mapping[str, Dataset]:
        raise StartError("DATASETS_FILE: wrong")

    catalog = Catalog({"a": dataset("a")}, read)
    with pytest.raises(StartError):
        await catalog.reread()
    assert list(catalog) == ["a"]


async def test_a_catalog_without_a_reader_stays() -> None:
    catalog = Catalog({"a": dataset("a")})
    await catalog.reread()
    assert list(catalog) == ["a"]


def test_hidden_columns_are_known_and_not_offered() -> None:
    hidden = dataset("a", "secret").columns
    found = Dataset(name="a", schema="s", relation="a", columns=dataset("a", "open").columns, hidden=hidden)
    assert set(found.known) == {"open", "secret"}
    assert set(found.columns) == {"open"}


@pytest.mark.parametrize(
    ("category", "kind", "textual"),
    [("S", "text", True), ("S", "public.citext", True), ("E", "public.mood", True), ("U", "xml", True),
     ("Z", "char", True), ("N", "numeric", False), ("D", "date", False), ("U", "json", False), ("A", "_text", False),
     ("U", "public.xml", False)],
)  # fmt: skip
def test_textual_columns_have_free_text(category: str, kind: str, textual: bool) -> None:
    assert Column(name="a", declared=kind, type=kind, length=None, category=category).textual is textual
