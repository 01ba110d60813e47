"""Which relations and columns may be exported, with their types.

The allow-list comes from the settings; everything else is read from the database once, at the start. Identifiers in
SQL come from here and never from a request.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from streamer.errors import StartError
from streamer.source.database import Connection, Pool, one_line

RELATION = """
    SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relkind IN ('r', 'p', 'm') AS plain
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = to_regclass($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""

# A domain is filtered as the type at its bottom, and its length is that of the first type on the way that has one.
COLUMNS = """
    WITH RECURSIVE types AS (
        SELECT a.attnum, a.attname, a.atttypid AS declared, a.atttypmod AS modifier, a.atttypid AS type,
               a.atttypmod AS length
        FROM pg_attribute a
        WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
      UNION ALL
        SELECT types.attnum, attname, declared, modifier, t.typbasetype,
               CASE WHEN types.length = -1 THEN t.typtypmod ELSE types.length END
        FROM types JOIN pg_type t ON t.oid = types.type AND t.typtype = 'd'
    )
    SELECT attname AS name, format_type(declared, modifier) AS declared, t.typname AS type,
           CASE WHEN t.typname IN ('bpchar', 'varchar') THEN nullif(length, -1) - 4 END AS length
    FROM types JOIN pg_type t ON t.oid = types.type AND t.typtype <> 'd'
    ORDER BY attnum
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """`type` is the name in pg_type of the type that values are read as; `length` is in characters."""

    name: str
    declared: str
    type: str
    length: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A relation under the name that clients use."""

    name: str
    schema: str
    relation: str
    columns: Mapping[str, Column]
    plain: bool = False  # a table or a materialized view: rows of its own, or of its partitions


class Catalog(Mapping[str, Dataset]):
    """The datasets by their public names."""

    def __init__(self, datasets: Mapping[str, Dataset]) -> None:
        self._datasets = dict(datasets)

    def __getitem__(self, name: str) -> Dataset:
        return self._datasets[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._datasets)

    def __len__(self) -> int:
        return len(self._datasets)


async def read_catalog(pool: Pool, names: Sequence[str]) -> Catalog:
    """Looks the allowed names up. Raises StartError for one that is no table or view of this database."""
    async with pool.acquire() as connection:
        return Catalog({name: await _read_dataset(connection, name) for name in names})


async def _read_dataset(connection: Connection, name: str) -> Dataset:
    try:
        relation = await connection.fetchrow(RELATION, name)
        if relation is None:
            raise StartError(f"DATASETS: there is no table or view {name!r} in the database")
        columns = await connection.fetch(COLUMNS, relation["oid"])
    except asyncpg.PostgresError as error:
        raise StartError(f"DATASETS: {name!r} cannot be looked up: {one_line(error)}") from error
    return Dataset(
        name=name,
        schema=relation["schema"],
        relation=relation["name"],
        columns={column["name"]: Column(**column) for column in columns},
        plain=relation["plain"],
    )
