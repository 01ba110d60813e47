"""Composes SQL from an ExportSpec.

Two kinds of text enter a statement: identifiers of the catalog, quoted here, and literals, quoted by the server itself
(`quote_literal`), because COPY takes no bound parameters. The driver's own inlining of parameters is not used: it
replaces `$1` everywhere, also in a quoted identifier.

Columns are named without their relation, and the relation has an alias that no column is likely to have. If a column
does not exist any more, `t.name` would be a call of the function name(t), and a bare name that is that of the relation
would be the whole row, with its hidden columns (PostgreSQL documentation, 8.16.5).

Changes of values by a dialect are expressions of the select list, so that every cursor writes the same. Columns to
order by are named with their relation: a bare name would be that of an output column (PostgreSQL documentation, SELECT,
"ORDER BY Clause"), which may be such an expression.
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
STARTS = ", ".join(f"E{start!r}" for start in FORMULA_STARTS)  # Python and PostgreSQL have the same escapes
ALIAS = '"streamer: row"'  # of the relation
BYTEWISE = 'pg_catalog."C"'  # the collation that compares bytes
QUOTE_LITERALS = """
    SELECT pg_catalog.array_agg(pg_catalog.quote_literal(value) ORDER BY place)
    FROM pg_catalog.unnest($1::pg_catalog.text[]) WITH ORDINALITY AS given (value, place)
"""


@dataclass(frozen=True, slots=True)
class Query:
    """The parts of one SELECT, all of them quoted."""

    columns: tuple[str, ...]
    relation: str
    where: str
    order: str = ""
    limit: str = ""

    @property
    def unordered(self) -> bool:
        """Whether the query returns every row that fulfils its conditions, in any order."""
        return not self.order and not self.limit

    @property
    def sql(self) -> str:
        return f"SELECT {', '.join(self.columns)}{self._rest}"

    @property
    def sql_as_text(self) -> str:
        """The same rows with each value as the text of its type's output function, as COPY prints it.

        `column::text` differs: it trims char(n) and prints `true` for bool. `IS DISTINCT FROM NULL` tests the value
        itself; `IS NOT NULL` would test the fields of a composite value.
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
        """Returns the query with one more condition, a subquery that is evaluated once, before the first row."""
        return replace(self, where=f"{self.where} AND {condition}" if self.where else f" WHERE {condition}")

    def sql_of_blocks(self, heap: str, first: int, stop: int) -> str:
        """Returns the SQL for the rows in the blocks `[first, stop)` of one heap.

        It has ONLY because a table that others inherit from is one heap among several.
        """
        joined = f"{self.where} AND" if self.where else " WHERE"
        return (
            f"SELECT {', '.join(self.columns)} FROM ONLY {heap} AS {ALIAS}{joined} "  # noqa: S608 - quoted, see above
            f"ctid >= '({first},0)'::pg_catalog.tid AND ctid < '({stop},0)'::pg_catalog.tid"
        )


async def compose(connection: Connection, dataset: Dataset, spec: ExportSpec) -> Query:
    """Returns the query of `spec`, with the conditions, the order and the limit of the dataset, and within its bounds.

    Its limit is one row more than the limit of the export, to find out whether rows were cut off. Raises ExportFailure
    for a column that is not offered any more.
    """
    _check_offered(dataset, spec)
    limit = max_rows(dataset, spec)
    return Query(
        columns=tuple(_output(dataset.columns[name], spec.dialect) for name in spec.columns),
        relation=_relation(dataset),
        where=await _where(connection, dataset, (*dataset.conditions, *spec.bounds.conditions, *spec.conditions)),
        order=_order(spec.order or dataset.order),
        limit="" if limit is None else f" LIMIT {limit + 1}",
    )


async def compose_condition(connection: Connection, dataset: Dataset, condition: Condition) -> Query:
    """Returns a query of one condition without columns: an error of its plan is one of the values."""
    return Query(columns=(), relation=_relation(dataset), where=await _where(connection, dataset, [condition]))


def max_rows(dataset: Dataset, spec: ExportSpec) -> int | None:
    """Returns the lowest limit of the export, its bounds and the dataset; None if there is none."""
    limits = (spec.limit, spec.bounds.limit, dataset.limit)
    return min((limit for limit in limits if limit is not None), default=None)


def _check_offered(dataset: Dataset, spec: ExportSpec) -> None:
    named = (*spec.columns, *(each.column for each in spec.conditions), *(by.column for by in spec.order))
    for name in named:
        if name not in dataset.columns:
            raise ExportFailure(f"the column {name!r} of the dataset {dataset.name!r} is no longer offered")
    for condition in spec.bounds.conditions:
        if condition.column not in dataset.known:
            raise ExportFailure(f"the dataset {dataset.name!r} cannot be limited to the rows that the client may read")


def _relation(dataset: Dataset) -> str:
    return quote_relation(dataset.schema, dataset.relation)


def _output(column: Column, dialect: Dialect) -> str:
    """Returns the expression for a column in the select list."""
    name = quote_identifier(column.name)
    if dialect.escape_formulas and column.textual:
        return _escaped(name, column)
    if dialect.timestamps is Timestamps.ISO8601 and column.type in ("timestamp", "timestamptz"):
        return _iso8601(name, column)
    return name


def _escaped(name: str, column: Column) -> str:
    """Returns an expression that puts an apostrophe before a text that a spreadsheet would take for a formula.

    Most texts begin with a letter: one bytewise comparison finds them, and only the others are tested further. `concat`
    returns what the output function of a type prints, where a cast to text would trim char(n).
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
        f"CASE WHEN {text} COLLATE {BYTEWISE} < 'A' AND pg_catalog.left({text}, 1) COLLATE {BYTEWISE} IN ({STARTS}) "
        f"THEN {escaped} ELSE {text} END"
    )


def _iso8601(name: str, column: Column) -> str:
    """Returns an expression with T and, with time zone, Z. Years BC and infinity have no such form and stay."""
    printed = f"{name}::pg_catalog.text"
    changed = f"pg_catalog.replace({printed}, ' ', 'T')"
    if column.type == "timestamptz":
        changed = f"pg_catalog.replace({changed}, '+00', 'Z')"
    return (
        f"CASE WHEN {name} >= '0001-01-01'::pg_catalog.{column.type} AND {name} < 'infinity' "
        f"THEN {changed} ELSE {printed} END"
    )


def _order(order: Sequence[Order]) -> str:
    """Returns the ORDER BY clause, in which NULL is larger than everything."""
    terms = [f"{ALIAS}.{quote_identifier(by.column)}{' DESC' if by.descending else ''}" for by in order]
    return f" ORDER BY {', '.join(terms)}" if terms else ""


async def _where(connection: Connection, dataset: Dataset, conditions: Sequence[Condition]) -> str:
    values = [_operand(condition, value) for condition in conditions for value in condition.values]
    literals = iter(await connection.fetchval(QUOTE_LITERALS, values) if values else ())
    columns = dataset.known
    terms = [_term(columns[condition.column], condition, literals) for condition in conditions]
    return f" WHERE {' AND '.join(terms)}" if terms else ""


def _operand(condition: Condition, value: str) -> str:
    """Returns the value, or the pattern of LIKE for it (PostgreSQL documentation, 9.7.1)."""
    match condition.operator:
        case Operator.CONTAINS:
            return f"%{value.translate(LIKE_WILDCARDS)}%"
        case Operator.STARTSWITH:
            return f"{value.translate(LIKE_WILDCARDS)}%"
        case _:
            return value


def _term(column: Column, condition: Condition, literals: Iterator[str]) -> str:
    name = quote_identifier(column.name)
    operands = [next(literals) for _ in condition.values]
    match condition.operator:
        case Operator.EQ:
            return _equal_to_any(column, operands)
        case Operator.NE:
            return f"NOT {_equal_to_any(column, operands)}"
        case Operator.ISNULL:
            # `IS NULL` would test the fields of a composite value. For other types the planner treats both the same.
            return f"{name} IS {'NOT ' if condition.values == ('true',) else ''}DISTINCT FROM NULL"
        case Operator.CONTAINS | Operator.STARTSWITH:
            return f"{name} LIKE {operands[0]}"
        case comparison:
            return f"{name} {_operator(column, COMPARISONS[comparison])} {operands[0]}"


def _equal_to_any(column: Column, literals: Sequence[str]) -> str:
    name = quote_identifier(column.name)
    if column.operators_in == PG_CATALOG:
        return f"{name} IN ({', '.join(literals)})"
    equal = _operator(column, "=")
    return f"({' OR '.join(f'{name} {equal} {literal}' for literal in literals)})"


def _operator(column: Column, symbol: str) -> str:
    """Returns an operator with its schema, which for a type of an extension may not be on the search path."""
    if column.operators_in == PG_CATALOG:
        return symbol
    return f"OPERATOR({quote_identifier(column.operators_in)}.{symbol})"
