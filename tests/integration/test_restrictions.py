"""A relation that the file of datasets has restricted stays restricted, whatever is renamed in the database.

Every case is a database, DATASETS and a file; then something changes, and the datasets are read again as by SIGHUP.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from streamer.config import Names
from streamer.errors import BadParameter, StartError
from streamer.postgres.driver import Pool
from streamer.source.catalog.catalog import Catalog
from streamer.source.catalog.introspection import read_catalog
from tests.asking import read_spec
from tests.conftest import Serve
from tests.exporting import read_problem
from tests.integration.sources import Plain, pooled

TABLES = """
    CREATE SCHEMA reports;
    CREATE TABLE reports.a (id int, tenant int, card text);
    CREATE TABLE reports.b (id int, tenant int, card text);
    CREATE TABLE reports.z (id int);
    INSERT INTO reports.a VALUES (1, 1, 'secret'), (2, 2, 'secret');
"""
FILE = """
    [datasets."reports.a"]
    hidden = ["card"]
    filters = { tenant = 1 }
"""
A, B, Z = ["id", "tenant"], ["id", "tenant", "card"], ["id"]
SWAP = "ALTER TABLE reports.a RENAME TO old; ALTER TABLE reports.b RENAME TO a;"


class Offered:
    """A catalog, its database and its file."""

    def __init__(self, plain: Plain, pool: Pool, file: Path) -> None:
        self._plain = plain
        self._pool = pool
        self._file = file
        self._catalog: Catalog | None = None

    async def start(self, *names: str, file: str = FILE, also: str = "") -> dict[str, list[str]]:
        await self._plain.execute(TABLES + also)
        self._file.write_text(file, encoding="utf-8")
        self._catalog = await read_catalog(self._pool, names, file=self._file)
        return self._columns()

    async def after(self, change: str = "SELECT 1", *, file: str | None = None) -> dict[str, list[str]]:
        """Returns the offered columns by dataset after the database, the file or both have changed."""
        await self._plain.execute(change)
        if file is not None:
            self._file.write_text(file, encoding="utf-8")
        assert self._catalog is not None
        await self._catalog.reread()
        return self._columns()

    @property
    def catalog(self) -> Catalog:
        assert self._catalog is not None
        return self._catalog

    def _columns(self) -> dict[str, list[str]]:
        assert self._catalog is not None
        return {name: list(dataset.columns) for name, dataset in self._catalog.items()}


@pytest.fixture
async def offered(database: str, plain: Plain, tmp_path: Path) -> AsyncIterator[Offered]:
    async with pooled(database, size=1) as pool:
        yield Offered(plain, pool, tmp_path / "datasets.toml")


@pytest.mark.parametrize(
    ("names", "change", "left"),
    [
        (["reports.*"], SWAP, {"reports.a": A, "reports.z": Z}),
        (["reports.*"], f"{SWAP} ALTER TABLE reports.old RENAME TO b", {"reports.a": A, "reports.z": Z}),
        (["reports.a", "reports.b"], f"{SWAP} ALTER TABLE reports.old RENAME TO b", {"reports.a": A}),
        (["reports.*"], "ALTER TABLE reports.a RENAME TO old", {"reports.b": B, "reports.z": Z}),
        (
            ["reports.*", "archive.*"],
            "ALTER TABLE reports.a SET SCHEMA archive",
            {"archive.it": Z, "reports.b": B, "reports.z": Z},
        ),
        (["archive.*", "reports.*"], "ALTER SCHEMA archive RENAME TO older; ALTER SCHEMA reports RENAME TO archive",
         {"archive.b": B, "archive.z": Z}),
        (["reports.*"], "DROP TABLE reports.a; CREATE TABLE reports.a (card text, tenant int, new int)",
         {"reports.a": ["tenant", "new"], "reports.b": B, "reports.z": Z}),
        (["reports.*"], "ALTER TABLE reports.a DROP COLUMN card", {"reports.b": B, "reports.z": Z}),
        (["reports.*"], "ALTER TABLE reports.a DROP COLUMN tenant", {"reports.b": B, "reports.z": Z}),
        (["reports.*"], "ALTER TABLE reports.a ALTER tenant TYPE date USING NULL", {"reports.b": B, "reports.z": Z}),
    ],
    ids=[
        "renamed and replaced", "two that swap their names", "two that are named and swap", "renamed", "moved",
        "a schema renamed", "dropped and made anew", "without the hidden column", "without the filtered column",
        "a filter of another type",
    ],
)  # fmt: skip
async def test_a_restricted_table_stays_restricted_when_the_database_changes(
    offered: Offered, names: list[str], change: str, left: dict[str, list[str]]
) -> None:
    started = await offered.start(*names, also="CREATE SCHEMA archive; CREATE TABLE archive.it (id int);")
    assert started["reports.a"] == A
    assert await offered.after(change) == left
    assert await offered.after() == left  # and the next time


async def test_a_restriction_covers_both_names_of_one_table(offered: Offered) -> None:
    also = "CREATE TABLE a AS SELECT 1 AS id, 2 AS tenant, 'x' AS card;"
    file = '[datasets.a]\nhidden = ["card"]'
    assert await offered.start("a", "public.a", "public.*", file=file, also=also) == {"a": A}
    assert await offered.after("ALTER TABLE a RENAME TO old; CREATE TABLE a (id int, card text)") == {"a": ["id"]}


async def test_a_configured_name_without_its_relation_does_not_become_another_relation(offered: Offered) -> None:
    file = '[datasets."reports.new"]\nrelation = "reports.a"\nhidden = ["card"]'
    await offered.start("reports.*", file=file)
    change = "DROP TABLE reports.a; CREATE TABLE reports.new (id int, card text)"
    assert await offered.after(change) == {"reports.b": B, "reports.z": Z}


# Restrictions that the operator lifts


async def test_removing_an_entry_lifts_the_restriction_of_its_table(offered: Offered) -> None:
    await offered.start("reports.*")
    assert await offered.after(file="") == {"reports.a": B, "reports.b": B, "reports.z": Z}
    assert await offered.after("ALTER TABLE reports.a RENAME TO old") == {
        "reports.b": B,
        "reports.old": B,
        "reports.z": Z,
    }


async def test_removing_an_entry_lifts_only_the_restriction_of_the_table_with_its_name(offered: Offered) -> None:
    await offered.start("reports.*")
    assert await offered.after(SWAP) == {"reports.a": A, "reports.z": Z}
    assert await offered.after(file="") == {"reports.a": B, "reports.z": Z}


async def test_removing_an_entry_during_a_swap_lifts_no_restriction(offered: Offered) -> None:
    await offered.start("reports.*")
    assert await offered.after(SWAP, file="") == {"reports.a": B, "reports.z": Z}


async def test_a_renamed_entry_restricts_the_same_table(offered: Offered) -> None:
    await offered.start("reports.*")
    file = '[datasets.renamed]\nrelation = "reports.a"\nhidden = ["card"]'
    assert await offered.after(SWAP, file=file) == {"reports.z": Z, "renamed": A}


@pytest.mark.parametrize(("entry", "columns"), [("", B), ("hidden = ['card']", A)])
async def test_a_renamed_table_follows_its_own_entry(offered: Offered, entry: str, columns: list[str]) -> None:
    await offered.start("reports.*")
    assert "reports.old" not in await offered.after(SWAP)
    found = await offered.after(file=f"{FILE}\n[datasets.'reports.old']\n{entry}")
    assert found == {"reports.z": Z, "reports.a": A, "reports.old": columns}


async def test_an_entry_without_restrictions_does_not_restrict_a_renamed_table(offered: Offered) -> None:
    await offered.start("reports.*", file="[datasets.'reports.a']\ndescription = 'all'\norder_by = 'id'")
    assert await offered.after(SWAP) == {"reports.old": B, "reports.z": Z, "reports.a": B}


# Descendants of a restricted table

PARTED = """
    CREATE TABLE reports.parted (id int, card text) PARTITION BY LIST (id);
    CREATE TABLE reports.part PARTITION OF reports.parted FOR VALUES IN (1);
    CREATE TABLE reports.parent (id int, card text);
    CREATE TABLE reports.child () INHERITS (reports.parent);
    CREATE TABLE reports.grandchild () INHERITS (reports.child);
"""
RESTRICTED = "[datasets.'reports.parted']\nhidden = ['card']\n[datasets.'reports.parent']\nhidden = ['card']"


async def test_a_pattern_offers_nothing_below_a_restricted_table(offered: Offered) -> None:
    left = {"reports.parted": ["id"], "reports.parent": ["id"]}
    assert await offered.start("reports.p*", "reports.*child", file=RESTRICTED, also=PARTED) == left
    assert await offered.after("ALTER TABLE reports.parted DETACH PARTITION reports.part") == left
    assert await offered.after("ALTER TABLE reports.child NO INHERIT reports.parent") == left


async def test_a_table_below_a_restricted_one_is_offered_by_name(offered: Offered) -> None:
    names = ("reports.parent", "reports.child", "reports.parted", "reports.part")
    everything = await offered.start(*names, file=RESTRICTED, also=PARTED)
    assert everything == {
        "reports.child": ["id", "card"],
        "reports.part": ["id", "card"],
        "reports.parent": ["id"],
        "reports.parted": ["id"],
    }
    assert await offered.after("ALTER TABLE reports.parted DETACH PARTITION reports.part") == everything


async def test_children_of_a_table_with_only_a_description_are_offered(offered: Offered) -> None:
    file = "[datasets.'reports.parent']\ndescription = 'all'"
    assert await offered.start("reports.p*nt", "reports.child", file=file, also=PARTED) == {
        "reports.child": ["id", "card"],
        "reports.parent": ["id", "card"],
    }


# At the start and over HTTP


async def test_a_start_with_a_configured_relation_that_does_not_exist_ends_with_one_line(offered: Offered) -> None:
    with pytest.raises(StartError, match=r"^DATASETS_FILE: datasets.reports.a: there is no table or view [^\n]*$"):
        await offered.start("reports.*", also="ALTER TABLE reports.a RENAME TO old;")


async def test_a_swap_during_an_export_exports_no_hidden_column(
    database: str, plain: Plain, tmp_path: Path, serve: Serve, session: aiohttp.ClientSession
) -> None:
    """No SIGHUP: the datasets are read again because a request finds another relation under the name."""
    await plain.execute(TABLES + "ALTER TABLE reports.b DROP COLUMN id, ADD card2 text")
    (tmp_path / "datasets.toml").write_text(FILE, encoding="utf-8")
    server = await serve(
        source_database_url=database, datasets=Names(("reports.*",)), datasets_file=tmp_path / "datasets.toml"
    )
    await plain.execute(SWAP)
    async with session.get(f"{server.url}/exports/csv?dataset=reports.a") as response:
        assert (response.status, await response.text()) == (200, "tenant,card2\n")
    async with session.get(f"{server.url}/exports/csv?dataset=reports.old") as response:
        await read_problem(response, 400)
    async with session.get(f"{server.url}/datasets") as response:
        assert [found["name"] for found in (await response.json())["datasets"]] == ["reports.z", "reports.a"]


RENAMED = "ALTER TABLE reports.a RENAME card TO old; ALTER TABLE reports.a ADD card text"
SWAPPED = """
    ALTER TABLE reports.a RENAME id TO x;
    ALTER TABLE reports.a RENAME card TO id;
    ALTER TABLE reports.a RENAME x TO card;
"""


@pytest.mark.parametrize("name", ["crad", "Card", "card__like", "card>", "card_min"])
async def test_a_hidden_column_is_never_suggested(offered: Offered, name: str) -> None:
    await offered.start("reports.*")
    for parameters in ([(name, "1")], [("columns", name)], [("order_by", name)]):
        with pytest.raises(BadParameter) as refused:
            read_spec([("dataset", "reports.a"), *parameters], b"", offered.catalog)
        assert "card" not in refused.value.sentence.replace(name, "")


async def test_a_hidden_column_that_was_renamed_stays_hidden_until_the_operator_changes_its_entry(
    offered: Offered,
) -> None:
    assert (await offered.start("reports.a"))["reports.a"] == A
    assert (await offered.after(RENAMED))["reports.a"] == A
    assert (await offered.after())["reports.a"] == A
    changed = FILE.replace('["card"]', '["tenant"]')
    assert (await offered.after(file=changed))["reports.a"] == ["id", "old", "card"]


async def test_a_hidden_column_that_takes_the_name_of_an_offered_one_stays_hidden(offered: Offered) -> None:
    file = FILE.replace('hidden = ["card"]', 'columns = ["id", "tenant"]')
    assert (await offered.start("reports.a", file=file))["reports.a"] == A
    assert (await offered.after(SWAPPED))["reports.a"] == ["tenant"]


async def test_a_new_column_is_offered_if_the_file_lists_hidden_columns(offered: Offered) -> None:
    await offered.start("reports.a")
    assert (await offered.after("ALTER TABLE reports.a ADD later int"))["reports.a"] == [*A, "later"]
