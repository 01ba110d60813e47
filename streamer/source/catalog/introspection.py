"""What the database says of the relations that may be exported.

The allow-list comes from the settings, and nothing else is ever exported. An entry is a name as SQL has it (`users`,
`sales.orders`, `"Order Lines"`): unquoted parts are folded to lower case, and one without a schema is looked for on the
search path. Or it is a pattern, a schema and a name with `*` (`reports.*`, `sales.order_*`), for all that the role may
read there but the partitions of a table, which stands for them.

A dataset is called as its entry is written; one that a pattern finds, as SQL writes it, with its schema and with no
quotes but those it needs, so that no two are called the same. The file of datasets (offers.py) can give other names.

Which operators a type has is read from its default operator classes, and for arrays and composite types from those of
what is in them: it is what the parser itself goes by (lookup_type_cache in src/backend/utils/cache/typcache.c). LIKE is
offered unless the collation of the column is nondeterministic, which LIKE refuses before PostgreSQL 18.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg

from streamer.errors import StartError
from streamer.model import Condition
from streamer.postgres.driver import Connection, Pool
from streamer.postgres.failures import CONNECTION_LOST, one_line
from streamer.postgres.quoting import quote_relation
from streamer.source.catalog.catalog import Catalog
from streamer.source.catalog.checking import WrongValueError, check_values
from streamer.source.catalog.configuration import SETTING as FILE
from streamer.source.catalog.configuration import DatasetConfig, read_configuration, texts_of
from streamer.source.catalog.filters import filter_key, listed, read_condition, read_order
from streamer.source.catalog.restrictions import Restrictions
from streamer.source.dataset import Column, Dataset, Locker
from streamer.source.query.query import LIKE_WILDCARDS
from streamer.source.session.consistency import SHAPE, SHAPE_NOW
from streamer.source.session.snapshot import open_snapshot, savepoint

log = logging.getLogger(__name__)

MAX_READINGS = 5  # of the catalog, one after the other, where relations are replaced meanwhile
CURRENT_TIMEOUT = 2.0  # seconds for an answer; the export itself finds out, too
QUOTED = r'"(?:[^"]|"")*"'
PATTERN = re.compile(rf'\s*({QUOTED}|[^".*\s]+)\s*\.\s*([^".\s]*)\s*')

# A view has no rows of its own, and -1 is a table that nobody has looked at: both are NULL.
RELATION = f"""
    SELECT c.oid, {SHAPE} AS shape,
           CASE WHEN c.relkind NOT IN ('r', 'p', 'v') THEN NULL
                WHEN pg_catalog.has_table_privilege(SESSION_USER, c.oid, 'SELECT') THEN '{Locker.USER}'
                WHEN pg_catalog.has_table_privilege(c.oid, 'SELECT') THEN '{Locker.ROLE}'
           END AS locker,
           n.nspname AS schema, c.relname AS name, c.relkind IN ('r', 'p', 'm') AS plain,
           pg_catalog.concat_ws('.', pg_catalog.quote_ident(n.nspname), pg_catalog.quote_ident(c.relname)) AS called,
           (CASE c.relkind
               WHEN 'v' THEN NULL
               WHEN 'f' THEN nullif(greatest(c.reltuples, 0), 0)
               WHEN 'p' THEN (
                   SELECT sum(nullif(leaf.reltuples, -1))
                   FROM pg_catalog.pg_partition_tree(c.oid) part JOIN pg_catalog.pg_class leaf ON leaf.oid = part.relid
                   WHERE part.isleaf
               )
               ELSE nullif(c.reltuples, -1)
           END)::pg_catalog.int8 AS estimated_rows
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND
"""  # noqa: S608 - of constants
NAMED = f"{RELATION} c.oid = pg_catalog.to_regclass($1)"
MATCHING = f"""{RELATION} n.nspname = $1 AND c.relname LIKE $2 AND NOT c.relispartition
    AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_any_column_privilege(c.oid, 'SELECT')
    ORDER BY c.relname
"""

# SQL over pg_class sees the snapshot; to_regclass, has_column_privilege and pg_identify_object see what is current.
NEWER = """
    SELECT named.identity IS NOT NULL
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass($1))
    FROM pg_catalog.pg_identify_object('pg_catalog.pg_class'::regclass, pg_catalog.to_regclass($1), 0) named
"""
CHANGED = """
    SELECT pg_catalog.min(pg_catalog.format('%I.%I', n.nspname, c.relname))
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = ANY ($1::oid[])
      AND (pg_catalog.pg_identify_object('pg_catalog.pg_class'::regclass, c.oid, 0)).identity
          IS DISTINCT FROM pg_catalog.format('%I.%I', n.nspname, c.relname)
"""

# A domain is filtered as the type at its bottom, and its length is that of the first type on the way that has one. Of a
# relation of which the role may read some columns, those are all there are.
COLUMNS = """
    WITH RECURSIVE types AS (
        SELECT a.attrelid, a.attnum, a.attname, a.atttypid AS declared, a.atttypmod AS modifier, a.attcollation,
               a.atttypid AS type, a.atttypmod AS length
        FROM pg_attribute a
        WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
          AND (has_column_privilege(a.attrelid, a.attnum, 'SELECT')
               OR NOT has_any_column_privilege(a.attrelid, 'SELECT'))
      UNION ALL
        SELECT attrelid, types.attnum, attname, declared, modifier, attcollation, t.typbasetype,
               CASE WHEN types.length = -1 THEN t.typtypmod ELSE types.length END
        FROM types JOIN pg_type t ON t.oid = types.type AND t.typtype = 'd'
    ),
    parts (whole, part) AS (
        SELECT DISTINCT t.oid, t.oid FROM types JOIN pg_type t ON t.oid = types.type AND t.typtype <> 'd'
      UNION
        SELECT whole, inside.type
        FROM parts JOIN pg_type t ON t.oid = part, LATERAL (
            SELECT t.typelem WHERE t.typsubscript = 'array_subscript_handler'::regproc
          UNION ALL
            SELECT t.typbasetype WHERE t.typtype = 'd'
          UNION ALL
            SELECT a.atttypid FROM pg_attribute a
            WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        ) AS inside (type)
    ),
    known (part, ordered, schema) AS (
        SELECT DISTINCT ON (t.oid) t.oid, m.amname = 'btree', n.nspname
        FROM (SELECT DISTINCT part FROM parts) AS needed
        JOIN pg_type t ON t.oid = needed.part AND t.typtype <> 'd'
        JOIN pg_opclass c ON c.opcdefault AND (
            c.opcintype = t.oid
            OR c.opcintype = CASE t.typtype
                WHEN 'e' THEN 'anyenum' WHEN 'r' THEN 'anyrange' WHEN 'm' THEN 'anymultirange' WHEN 'c' THEN 'record'
                ELSE CASE WHEN t.typsubscript = 'array_subscript_handler'::regproc THEN 'anyarray' END
            END::regtype
            OR EXISTS (
                SELECT FROM pg_cast
                WHERE castsource = t.oid AND casttarget = c.opcintype AND castmethod = 'b' AND castcontext = 'i'
            )
        )
        JOIN pg_am m ON m.oid = c.opcmethod AND m.amname IN ('btree', 'hash')
        JOIN pg_amop a ON a.amopfamily = c.opcfamily AND a.amoplefttype = c.opcintype AND a.amoprighttype = c.opcintype
            AND a.amopstrategy = CASE m.amname WHEN 'btree' THEN 3 ELSE 1 END
        JOIN pg_operator o ON o.oid = a.amopopr AND o.oprname = '='
        JOIN pg_namespace n ON n.oid = o.oprnamespace
        ORDER BY t.oid, m.amname, c.opcintype <> t.oid
    ),
    wholes AS (
        SELECT whole, bool_and(known.part IS NOT NULL) AS compared, bool_and(coalesce(ordered, false)) AS ordered
        FROM parts JOIN pg_type t ON t.oid = part AND t.typtype <> 'd' LEFT JOIN known USING (part)
        GROUP BY whole
    )
    SELECT attrelid AS relation, attname AS name, format_type(declared, modifier) AS declared,
           CASE WHEN n.nspname = 'pg_catalog' THEN t.typname::text
                ELSE concat_ws('.', quote_ident(n.nspname), quote_ident(t.typname)) END AS type,
           CASE WHEN t.oid IN ('bpchar'::regtype, 'varchar'::regtype) THEN nullif(length, -1) - 4 END AS length,
           t.typcategory::text AS category,
           wholes.compared AND t.typtype <> 'c' AS compared,  -- the literal of a row would have no type
           wholes.ordered,
           coalesce(l.collisdeterministic, true) OR current_setting('server_version_num')::int >= 180000 AS searched,
           coalesce(known.schema, 'pg_catalog') AS operators_in
    FROM types JOIN pg_type t ON t.oid = types.type AND t.typtype <> 'd'
    JOIN pg_namespace n ON n.oid = t.typnamespace
    JOIN wholes ON wholes.whole = t.oid
    LEFT JOIN pg_collation l ON l.oid = types.attcollation
    LEFT JOIN known ON known.part = t.oid
    ORDER BY attrelid, attnum
"""

# What stays when a column is renamed.
NUMBERS = "SELECT attname, attnum FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped"

Columns = Mapping[str, Column]


async def read_catalog(
    pool: Pool, names: Sequence[str], *, file: Path | None = None, role: str | None = None
) -> Catalog:
    """The datasets of the allow-list `names`, as `role` may see them, with what `file` says of them.

    Raises StartError for a name that is no table or view of this database, and for a wrong file. When the catalog is
    read again, what is there no longer is left out.
    """
    once = Restrictions()
    datasets = await _Reading(pool, names, file, role, once, strict=True).datasets()
    reading = _Reading(pool, names, file, role, once, strict=False)
    return Catalog(datasets, reading.datasets, reading.is_current)


class _ChangedError(Exception):
    """What the snapshot sees of a relation is not what functions of the catalog say of it."""


class _Reading:
    def __init__(
        self,
        pool: Pool,
        names: Sequence[str],
        file: Path | None,
        role: str | None,
        once: Restrictions,
        *,
        strict: bool,
    ) -> None:
        self._pool = pool
        self._names = names
        self._file = file
        self._role = role
        self._once = once
        self._strict = strict

    async def datasets(self) -> Mapping[str, Dataset]:
        offers = read_configuration(self._file)
        setting = "DATASET_ROLE" if self._role else "DATASETS"
        for _ in range(MAX_READINGS):
            try:
                async with open_snapshot(self._pool, role=self._role) as snapshot:
                    return await self._datasets(snapshot.connection, offers)
            except _ChangedError as change:
                log.info("the catalog is read once more: %s", change)
            except asyncpg.PostgresError as error:
                raise StartError(f"{setting}: {one_line(error)}") from error
        raise StartError(f"{setting}: tables are being replaced again and again; try once more")

    async def is_current(self, dataset: Dataset) -> bool:
        """Whether the relation has the columns that it had when it was read; yes where the database does not answer."""
        relation = quote_relation(dataset.schema, dataset.relation)
        try:
            async with asyncio.timeout(CURRENT_TIMEOUT):
                shape: int | None = await self._pool.fetchval(SHAPE_NOW, relation, self._role)
        except asyncpg.PostgresError as error:  # such as a schema that may not be used any more
            return isinstance(error, CONNECTION_LOST)
        except CONNECTION_LOST:
            return True
        return shape == dataset.shape

    async def _datasets(self, connection: Connection, offers: Mapping[str, DatasetConfig]) -> Mapping[str, Dataset]:
        allowed = await self._allowed(connection)
        offered = await self._offered(connection, offers, {relation["oid"] for relation in allowed.values()})
        columns = await _columns(connection, [relation["oid"] for relation in allowed.values()])
        await _check_unchanged(connection, columns)
        plain = await self._plain(connection, offers, allowed, offered)
        datasets = {name: _dataset(name, relation, columns[relation["oid"]]) for name, relation in plain.items()}
        for name, relation in offered.items():
            if name in datasets:
                raise StartError(f"{FILE}: datasets.{name}: DATASETS has another relation of this name")
            async with self._part(connection):
                dataset = _dataset(name, relation, columns[relation["oid"]])
                datasets[name] = await _refined(connection, dataset, offers[name], self._once)
        return datasets

    async def _allowed(self, connection: Connection) -> dict[str, asyncpg.Record]:
        """What DATASETS names, by its public names."""
        found: dict[str, asyncpg.Record] = {}
        for entry in self._names:
            async with self._part(connection):
                if "*" in re.sub(QUOTED, "", entry):
                    for relation in await _matching(connection, entry):
                        found.setdefault(relation["called"], relation)
                else:
                    found[entry] = await _named(connection, entry, "DATASETS")
        return found

    async def _offered(
        self, connection: Connection, offers: Mapping[str, DatasetConfig], allowed: set[int]
    ) -> dict[str, asyncpg.Record]:
        """What the file names, by its public names."""
        found: dict[str, asyncpg.Record] = {}
        for name, offer in offers.items():
            async with self._part(connection):
                relation = await _named(connection, _relation_of(name, offer), f"{FILE}: datasets.{name}")
                if relation["oid"] not in allowed:
                    raise StartError(f"{FILE}: datasets.{name}: {relation['called']} is not in DATASETS")
                found[name] = relation
        return found

    async def _plain(
        self,
        connection: Connection,
        offers: Mapping[str, DatasetConfig],
        allowed: Mapping[str, asyncpg.Record],
        offered: Mapping[str, asyncpg.Record],
    ) -> dict[str, asyncpg.Record]:
        """What is offered as it is: of no relation and no name that the file restricts, or has restricted."""
        restricting = {name: _relation_of(name, offer) for name, offer in offers.items() if offer.restricts}
        restricted = {offered[name]["oid"]: text for name, text in restricting.items() if name in offered}
        await self._once.note(connection, restricted, restricting.values())
        refined, failed = {relation["oid"] for relation in offered.values()}, offers.keys() - offered.keys()
        left = {name: relation for name, relation in allowed.items() if relation["oid"] not in refined}
        plain = {
            name: relation
            for name, relation in left.items()
            if name not in failed and not self._once.closes(relation["oid"], by_pattern=name not in self._names)
        }
        for name in left.keys() - plain.keys():
            log.warning("not offered: %s: %s restricts, or has restricted, it or a table above it", name, FILE)
        return plain

    @asynccontextmanager
    async def _part(self, connection: Connection) -> AsyncIterator[None]:
        """Where the reading is not strict, a part of it that fails is left out."""
        try:
            async with savepoint(connection):
                yield
        except StartError as error:
            if self._strict:
                raise
            log.warning("not offered any more: %s", error)


def _relation_of(name: str, offer: DatasetConfig) -> str:
    """As the file has it."""
    return offer.relation or name


async def _check_unchanged(connection: Connection, relations: Iterable[int]) -> None:
    """Raises _ChangedError if a relation was dropped or renamed since the snapshot was taken."""
    if changed := await connection.fetchval(CHANGED, list(relations)):
        raise _ChangedError(f"{changed} was replaced")


async def _named(connection: Connection, name: str, setting: str) -> asyncpg.Record:
    try:
        relation = await connection.fetchrow(NAMED, name)
        if relation is None and await connection.fetchval(NEWER, name):
            raise _ChangedError(f"{name} was replaced")
    except asyncpg.PostgresError as error:
        raise StartError(f"{setting}: {name!r} cannot be looked up: {one_line(error)}") from error
    if relation is None:
        raise StartError(f"{setting}: there is no table or view {name!r} in the database")
    return relation


async def _matching(connection: Connection, entry: str) -> Sequence[asyncpg.Record]:
    parsed = PATTERN.fullmatch(entry)
    if parsed is None:
        raise StartError(f"DATASETS: {entry!r} is no pattern; one is a schema, a dot, and a name with *: reports.*")
    schema = parsed[1][1:-1].replace('""', '"') if parsed[1].startswith('"') else parsed[1].lower()
    like = parsed[2].lower().translate(LIKE_WILDCARDS).replace("*", "%")
    found: Sequence[asyncpg.Record] = await connection.fetch(MATCHING, schema, like)
    if not found:
        raise StartError(f"DATASETS: {entry!r} matches no table or view that may be read")
    return found


async def _columns(connection: Connection, relations: Iterable[int]) -> Mapping[int, Columns]:
    """The columns of each relation by their names, in their order. Columns that are alike are one in memory."""
    alike: dict[Column, Column] = {}
    columns: dict[int, dict[str, Column]] = {relation: {} for relation in relations}
    for row in await connection.fetch(COLUMNS, list(columns)):
        column = Column(**{name: value for name, value in row.items() if name != "relation"})
        columns[row["relation"]][column.name] = alike.setdefault(column, column)
    return columns


def _dataset(name: str, relation: asyncpg.Record, columns: Columns) -> Dataset:
    return Dataset(
        name=name,
        schema=relation["schema"],
        relation=relation["name"],
        oid=relation["oid"],
        shape=relation["shape"],
        locker=Locker(relation["locker"]) if relation["locker"] else None,
        columns=columns,
        plain=relation["plain"],
        estimated_rows=relation["estimated_rows"],
    )


async def _refined(connection: Connection, dataset: Dataset, offer: DatasetConfig, once: Restrictions) -> Dataset:
    """The dataset as its offer wants it, without the columns that it once has hidden. Raises StartError."""
    place = f"{FILE}: datasets.{dataset.name}"
    offered = _offered_columns(dataset.columns, offer, place)
    numbers = {row["attname"]: row["attnum"] for row in await connection.fetch(NUMBERS, dataset.oid)}
    for name in once.still_hidden(dataset.name, dataset.oid, offer, numbers, list(offered)):
        log.warning("not offered: the column %s of %s: %s has hidden it under another name", name, dataset.name, FILE)
        del offered[name]
    if not offered:
        raise StartError(f"{place}: no column is left")
    _check_named(offer.required, offered, f"{place}.required")
    try:
        order = tuple(read_order(text, dataset.columns) for text in offer.order)
    except ValueError as error:
        raise StartError(f"{place}.order_by: {error}") from error
    refined = replace(
        dataset,
        columns=offered,
        hidden={name: column for name, column in dataset.columns.items() if name not in offered},
        conditions=tuple(_condition(dataset.columns, name, value, place) for name, value in offer.filters.items()),
        order=order,
        required=offer.required,
        limit=offer.limit,
        description=offer.description,
    )
    try:
        await check_values(connection, refined, refined.conditions)
    except WrongValueError as error:
        raise StartError(f"{place}.filters: {error.condition.column}: {error}") from error
    return refined


def _offered_columns(columns: Columns, offer: DatasetConfig, place: str) -> dict[str, Column]:
    if offer.columns is not None and offer.hidden:
        raise StartError(f"{place}: columns says which are offered, hidden which are not; say one of them")
    _check_named(offer.columns or (), columns, f"{place}.columns")
    _check_named(offer.hidden, columns, f"{place}.hidden")
    wanted = (name for name in columns if name not in offer.hidden) if offer.columns is None else offer.columns
    return {name: columns[name] for name in wanted}


def _check_named(names: Iterable[str], columns: Columns, place: str) -> None:
    for name in names:
        if name not in columns:
            raise StartError(f"{place}: there is no column {name!r}; there are {listed(columns)}")


def _condition(columns: Columns, name: str, value: object, place: str) -> Condition:
    meaning = filter_key(name, columns)
    if meaning is None:
        raise StartError(f"{place}.filters: {name!r} is no column, nor one with an operator behind it")
    column, operator = meaning
    try:
        return read_condition(columns[column], operator, texts_of(value))
    except ValueError as error:
        raise StartError(f"{place}.filters.{name}: {error}") from error
