"""Lookups of relations and columns in the system catalogs.

An entry of DATASETS is a name as SQL has it (`users`, `sales.orders`, `"Order Lines"`): unquoted parts are folded to
lower case, and a name without a schema is found on the search path. Or it is a pattern, a schema and a name with `*`
(`reports.*`, `sales.order_*`), for all relations there that the role may read, except partitions: their table stands
for them.

Which operators a type has is read from its default operator classes, and for arrays and composite types from those of
their elements, as the parser does (lookup_type_cache in src/backend/utils/cache/typcache.c). LIKE is offered unless the
collation of the column is nondeterministic, which LIKE refuses before PostgreSQL 18.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import asyncpg

from streamer.errors import StartError
from streamer.postgres.driver import Connection
from streamer.postgres.failures import one_line
from streamer.postgres.statements import read_sql
from streamer.source.dataset import Column, Dataset, Locker
from streamer.source.query.query import LIKE_WILDCARDS
from streamer.source.session.consistency import SHAPE

QUOTED = r'"(?:[^"]|"")*"'
PATTERN = re.compile(rf'\s*({QUOTED}|[^".*\s]+)\s*\.\s*([^".\s]*)\s*')

PACKAGE = "streamer.source.catalog"
LOCKERS = {"shape": SHAPE, "by_user": Locker.USER, "by_role": Locker.ROLE}
NAMED = read_sql(PACKAGE, "relations", condition="c.oid = pg_catalog.to_regclass($1)", **LOCKERS)
MATCHING = read_sql(PACKAGE, "relations", condition=read_sql(PACKAGE, "matching"), **LOCKERS)
NEWER = read_sql(PACKAGE, "newer")
CHANGED = read_sql(PACKAGE, "changed")
COLUMNS = read_sql(PACKAGE, "columns")
NUMBERS = read_sql(PACKAGE, "numbers")

Columns = Mapping[str, Column]


DATASETS = "DATASETS"
REMEDY_OF_FILE = "set its relation to one of that database, such as sales.orders"
REMEDY = "set DATASETS to tables and views of that database, such as sales.orders or sales.*"


class CatalogChangedError(Exception):
    """The snapshot and the functions of the system catalogs, which do not read the snapshot, disagree on a relation."""


def is_pattern(entry: str) -> bool:
    """Whether an entry of DATASETS is a pattern."""
    return "*" in re.sub(QUOTED, "", entry)


async def find_relation(connection: Connection, name: str, setting: str) -> asyncpg.Record:
    """Returns the row of sql/relations.sql for a name. Raises StartError that names the setting if there is none."""
    try:
        relation = await connection.fetchrow(NAMED, name)
        if relation is None and await connection.fetchval(NEWER, name):
            raise CatalogChangedError(f"{name} was replaced")
    except asyncpg.PostgresError as error:
        raise StartError(f"{setting}: {name!r} cannot be looked up: {one_line(error)}") from error
    if relation is None:
        remedy = REMEDY if setting == DATASETS else REMEDY_OF_FILE
        raise StartError(f"{setting}: there is no table or view {name!r} in the database; {remedy}")
    return relation


async def find_matching(connection: Connection, pattern: str) -> Sequence[asyncpg.Record]:
    """Returns the rows of sql/relations.sql for a pattern. Raises StartError if there is none."""
    parsed = PATTERN.fullmatch(pattern)
    if parsed is None:
        raise StartError(f"DATASETS: {pattern!r} is no pattern; one is a schema, a dot, and a name with *: reports.*")
    schema = parsed[1][1:-1].replace('""', '"') if parsed[1].startswith('"') else parsed[1].lower()
    like = parsed[2].lower().translate(LIKE_WILDCARDS).replace("*", "%")
    found: Sequence[asyncpg.Record] = await connection.fetch(MATCHING, schema, like)
    if not found:
        raise StartError(f"DATASETS: {pattern!r} matches no table or view that may be read; {REMEDY}")
    return found


async def find_columns(connection: Connection, relations: Iterable[int]) -> Mapping[int, Columns]:
    """Returns the columns of each relation by name, in their order. Equal columns share one object."""
    shared: dict[Column, Column] = {}
    columns: dict[int, dict[str, Column]] = {relation: {} for relation in relations}
    for row in await connection.fetch(COLUMNS, list(columns)):
        column = Column(**{name: value for name, value in row.items() if name != "relation"})
        columns[row["relation"]][column.name] = shared.setdefault(column, column)
    return columns


async def find_numbers(connection: Connection, relation: int) -> Mapping[str, int]:
    """Returns the number (attnum) of each column, which it keeps when it is renamed."""
    return {row["attname"]: row["attnum"] for row in await connection.fetch(NUMBERS, relation)}


async def check_unchanged(connection: Connection, relations: Iterable[int]) -> None:
    """Raises CatalogChangedError if a relation was dropped or renamed since the snapshot was taken."""
    if changed := await connection.fetchval(CHANGED, list(relations)):
        raise CatalogChangedError(f"{changed} was replaced")


def dataset_of(name: str, relation: asyncpg.Record, columns: Columns) -> Dataset:
    """Returns the dataset that offers a row of sql/relations.sql without restrictions."""
    return Dataset(
        name=name,
        schema=relation["schema"],
        relation=relation["name"],
        oid=relation["oid"],
        shape=relation["shape"],
        locker=Locker(relation["locker"]) if relation["locker"] else None,
        columns=columns,
        stores_rows=relation["stores_rows"],
        estimated_rows=relation["estimated_rows"],
    )
