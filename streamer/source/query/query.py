"""ExportSpec → SQL.

Two kinds of text enter a statement: identifiers of the catalog, quoted here, and literals, quoted by the server itself
(`quote_literal`), because COPY takes no bound parameters. asyncpg's own inlining is not used: it replaces `$1` wherever
it stands, in a quoted identifier too.

Columns are named without their relation, and the relation has an alias that no column is likely to have. `t.name` of a
column that is no longer there would be a call of the function name(t), and a bare name that is that of the relation
would be the whole row, hidden columns included (PostgreSQL documentation, 8.16.5).

What a dialect changes in a value is said in the select list, so that COPY writes it, and every cursor the same. Columns
to order by are named with their relation: a bare name would be that of an output column (PostgreSQL documentation,
SELECT, "ORDER BY Clause"), which may be an expression over it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from streamer.errors import ExportFailure
from streamer.formats.dialect import FORMULA_STARTS
from streamer.model import Condition, Dialect, ExportSpec, Operator, Order, Timestamps
from streamer.postgres.driver import Connection
from streamer.postgres.quoting import quote_identifier, quote_relation
from streamer.source.dataset import PG_CATALOG, Column, Dataset

COMPARISONS = {Operator.GTE: ">=", Operator.GT: ">", Operator.LTE: "<=", Operator.LT: "<"}
LIKE_WILDCARDS = str.maketrans({character: "\\" + character for character in "\\%_"})
STARTS = ", ".join(f"E{start!r}" for start in FORMULA_STARTS)  # Python escapes them as PostgreSQL does
ALIAS = '"streamer: row"'  # of the relation
BYTES = 'pg_catalog."C"'  # the collation that compares them
QUOTE_LITERALS = """
    SELECT pg_catalog.array_agg(pg_catalog.quote_literal(value) ORDER BY place)
    FROM pg_catalog.unnest($1::pg_catalog.text[]) WITH ORDINALITY AS given (value, place)
"""


@dataclass(frozen=True, slots=True)
class Query:
    """The parts of one SELECT, every one of them quoted already."""

    columns: tuple[str, ...]
    relation: str
    where: str
    order: str = ""
    limit: str = ""

    @property
    def unordered(self) -> bool:
        """Whether it asks for every row that its conditions let through, in whatever order."""
        return not self.order and not self.limit

    @property
    def sql(self) -> str:
        return f"SELECT {', '.join(self.columns)}{self._rest}"

    @property
    def sql_as_text(self) -> str:
        """The same rows with each value as the text of its type's output function, which is what COPY prints.

        `column::text` is not: it trims char(n) and says `true` for bool. `IS DISTINCT FROM NULL` asks whether the value
        itself is NULL; `IS NOT NULL` would look inside a composite value.
        """
        texts = (
            f"CASE WHEN {column} IS DISTINCT FROM NULL THEN pg_catalog.format('%s', {column}) END"
            for column in self.columns
        )
        return f"SELECT {', '.join(texts)}{self._rest}"

    @property
    def _rest(self) -> str:
        return f" FROM {self.relation} AS {ALIAS}{self.where}{self.order}{self.limit}"

    def guarded(self, condition: str) -> "Query":
        """The same query with one condition more, which is a subquery: evaluated once, before the first row."""
        return replace(self, where=f"{self.where} AND {condition}" if self.where else f" WHERE {condition}")

    def sql_of_blocks(self, heap: str, first: int, stop: int) -> str:
        """The rows of one heap that lie in its blocks `[first, stop)`.

        ONLY, because a table that others inherit from is one heap among several.
        """
        joined = f"{self.where} AND" if self.where else " WHERE"
        return (
            f"SELECT {', '.join(self.columns)} FROM ONLY {heap} AS {ALIAS}{joined} "  # noqa: S608 - quoted, see above
            f"ctid >= '({first},0)'::pg_catalog.tid AND ctid < '({stop},0)'::pg_catalog.tid"
        )


async def compose(connection: Connection, dataset: Dataset, spec: ExportSpec) -> Query:
    """The query that `spec` asks of `dataset`, with what the dataset itself demands.

    One row more than the limit is asked for: whether it comes tells whether the limit has cut any. Raises ExportFailure
    for a column that is not offered, or no longer.
    """
    _check_offered(dataset, spec)
    limit = max_rows(dataset, spec)
    return Query(
        columns=tuple(_output(dataset.columns[name], spec.dialect) for name in spec.columns),
        relation=_relation(dataset),
        where=await _where(connection, dataset, (*dataset.conditions, *spec.conditions)),
        order=_order(spec.order or dataset.order),
        limit="" if limit is None else f" LIMIT {limit + 1}",
    )


async def compose_condition(connection: Connection, dataset: Dataset, condition: Condition) -> Query:
    """One condition and no columns: what PostgreSQL says of this query it says of the condition's values."""
    return Query(columns=(), relation=_relation(dataset), where=await _where(connection, dataset, [condition]))


def max_rows(dataset: Dataset, spec: ExportSpec) -> int | None:
    """The limit that was asked for, or the dataset's own if that is lower."""
    return min((limit for limit in (spec.limit, dataset.limit) if limit is not None), default=None)


def _check_offered(dataset: Dataset, spec: ExportSpec) -> None:
    named = (*spec.columns, *(each.column for each in spec.conditions), *(by.column for by in spec.order))
    for name in named:
        if name not in dataset.columns:
            raise ExportFailure(f"the column {name!r} of the dataset {dataset.name!r} is no longer offered")


def _relation(dataset: Dataset) -> str:
    return quote_relation(dataset.schema, dataset.relation)


def _output(column: Column, dialect: Dialect) -> str:
    """What stands for a column in the select list."""
    name = quote_identifier(column.name)
    if dialect.escape_formulas and column.textual:
        return _escaped(name, column)
    if dialect.timestamps is Timestamps.ISO8601 and column.type in ("timestamp", "timestamptz"):
        return _iso8601(name, column)
    return name


def _escaped(name: str, column: Column) -> str:
    """What a spreadsheet would take for a formula gets an apostrophe before it.

    Most texts begin with a letter, which one comparison of bytes tells; only the others are looked at more closely.
    `concat` gives what a type's output function prints, where a cast to text would trim char(n).
    """
    escaped = f"pg_catalog.concat('''', {name})"
    match column.type:
        case "text" | "varchar":
            return _guarded(name, escaped)
        case "bpchar":
            return _guarded(name, f"{escaped}::pg_catalog.bpchar")
        case _:
            return f"CASE WHEN {name} IS DISTINCT FROM NULL THEN {_guarded(f'pg_catalog.concat({name})', escaped)} END"


def _guarded(text: str, escaped: str) -> str:
    return (
        f"CASE WHEN {text} COLLATE {BYTES} < 'A' AND pg_catalog.left({text}, 1) COLLATE {BYTES} IN ({STARTS}) "
        f"THEN {escaped} ELSE {text} END"
    )


def _iso8601(name: str, column: Column) -> str:
    """With T, and with Z where there is a zone, which is UTC. Years BC and infinity have no such form, and stay."""
    printed = f"{name}::pg_catalog.text"
    changed = f"pg_catalog.replace({printed}, ' ', 'T')"
    if column.type == "timestamptz":
        changed = f"pg_catalog.replace({changed}, '+00', 'Z')"
    return (
        f"CASE WHEN {name} >= '0001-01-01'::pg_catalog.{column.type} AND {name} < 'infinity' "
        f"THEN {changed} ELSE {printed} END"
    )


def _order(order: Sequence[Order]) -> str:
    """As the types of the columns order. NULL is larger than everything."""
    terms = [f"{ALIAS}.{quote_identifier(by.column)}{' DESC' if by.descending else ''}" for by in order]
    return f" ORDER BY {', '.join(terms)}" if terms else ""


async def _where(connection: Connection, dataset: Dataset, conditions: Sequence[Condition]) -> str:
    values = [_operand(condition, value) for condition in conditions for value in condition.values]
    literals = iter(await connection.fetchval(QUOTE_LITERALS, values) if values else ())
    columns = dataset.known
    terms = [_term(columns[condition.column], condition, literals) for condition in conditions]
    return f" WHERE {' AND '.join(terms)}" if terms else ""


def _operand(condition: Condition, value: str) -> str:
    """The value, or the pattern of LIKE that stands for it (PostgreSQL documentation, 9.7.1)."""
    match condition.operator:
        case Operator.CONTAINS:
            return f"%{value.translate(LIKE_WILDCARDS)}%"
        case Operator.STARTSWITH:
            return f"{value.translate(LIKE_WILDCARDS)}%"
        case _:
            return value


def _term(column: Column, condition: Condition, literals: Iterator[str]) -> str:
    name = quote_identifier(column.name)
    taken = [next(literals) for _ in condition.values]
    match condition.operator:
        case Operator.EQ:
            return _equal_to_any(column, taken)
        case Operator.NE:
            return f"NOT {_equal_to_any(column, taken)}"
        case Operator.ISNULL:
            # `IS NULL` would look inside a composite value. The planner makes the same of both for any other.
            return f"{name} IS {'NOT ' if condition.values == ('true',) else ''}DISTINCT FROM NULL"
        case Operator.CONTAINS | Operator.STARTSWITH:
            return f"{name} LIKE {taken[0]}"
        case comparison:
            return f"{name} {_operator(column, COMPARISONS[comparison])} {taken[0]}"


def _equal_to_any(column: Column, literals: Sequence[str]) -> str:
    name = quote_identifier(column.name)
    if column.operators_in == PG_CATALOG:
        return f"{name} IN ({', '.join(literals)})"
    equal = _operator(column, "=")
    return f"({' OR '.join(f'{name} {equal} {literal}' for literal in literals)})"


def _operator(column: Column, symbol: str) -> str:
    """The operators of a type of an extension may be in a schema that the search path does not name."""
    if column.operators_in == PG_CATALOG:
        return symbol
    return f"OPERATOR({quote_identifier(column.operators_in)}.{symbol})"
