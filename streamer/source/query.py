"""ExportSpec → SQL.

Two kinds of text enter a statement: identifiers of the catalog, quoted here, and literals, quoted by the server itself
(`quote_literal`), because COPY takes no bound parameters. asyncpg's own inlining is not used: it replaces `$1` wherever
it stands, in a quoted identifier too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streamer.model import Condition, ExportSpec, Operator
from streamer.source.catalog import Dataset
from streamer.source.database import Connection

COMPARISONS = {Operator.GTE: ">=", Operator.GT: ">", Operator.LTE: "<=", Operator.LT: "<"}
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

    @property
    def sql(self) -> str:
        return f"SELECT {', '.join(self.columns)} FROM {self.relation}{self.where}"  # noqa: S608 - quoted, see above

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
        return f"SELECT {', '.join(texts)} FROM {self.relation}{self.where}"  # noqa: S608 - quoted, see above

    def sql_of_blocks(self, heap: str, first: int, stop: int) -> str:
        """The rows of one heap that lie in its blocks `[first, stop)`.

        ONLY, because a table that others inherit from is one heap among several.
        """
        joined = f"{self.where} AND" if self.where else " WHERE"
        return (
            f"SELECT {', '.join(self.columns)} FROM ONLY {heap}{joined} "  # noqa: S608 - quoted, see above
            f"ctid >= '({first},0)'::pg_catalog.tid AND ctid < '({stop},0)'::pg_catalog.tid"
        )


async def compose(connection: Connection, dataset: Dataset, spec: ExportSpec) -> Query:
    """The query that `spec` asks of `dataset`."""
    values = [value for condition in spec.conditions for value in condition.values]
    literals = iter(await connection.fetchval(QUOTE_LITERALS, values) if values else ())
    return Query(
        columns=tuple(map(quote_identifier, spec.columns)),
        relation=quote_relation(dataset.schema, dataset.relation),
        where=_where(spec.conditions, literals),
    )


def quote_identifier(name: str) -> str:
    """A delimited identifier (PostgreSQL documentation, 4.1.1)."""
    return '"' + name.replace('"', '""') + '"'


def quote_relation(schema: str, name: str) -> str:
    return f"{quote_identifier(schema)}.{quote_identifier(name)}"


def _where(conditions: Sequence[Condition], literals: Iterator[str]) -> str:
    terms = [_term(condition, literals) for condition in conditions]
    return f" WHERE {' AND '.join(terms)}" if terms else ""


def _term(condition: Condition, literals: Iterator[str]) -> str:
    column = quote_identifier(condition.column)
    taken = [next(literals) for _ in condition.values]
    if condition.operator is Operator.EQ:
        return f"{column} IN ({', '.join(taken)})"
    return f"{column} {COMPARISONS[condition.operator]} {taken[0]}"
