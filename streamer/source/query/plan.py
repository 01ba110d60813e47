"""The planner's view of a query, and the heaps that a sequential scan of it would read.

Block ranges are for queries that would be scanned anyway: a plan of sequential scans and nothing else, over heaps that
the role may read one by one. A filter that an index serves is left to the index.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from streamer.postgres.driver import Connection
from streamer.postgres.quoting import quote_relation
from streamer.postgres.statements import read_sql
from streamer.source.dataset import Dataset
from streamer.source.query.query import Query


@dataclass(frozen=True, slots=True)
class Heap:
    """A table with storage of its own; `blocks` is its size."""

    schema: str
    name: str
    oid: int
    blocks: int


HEAPS = read_sql("streamer.source.query", "heaps")


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a query.

    `expected` is in rows. `cost` is that of all rows, in sequential block reads unless the server is configured
    otherwise. `scans` has the schema and name of each scanned relation in order, None if the plan is not sequential
    scans alone.
    """

    expected: int
    cost: float
    scans: tuple[tuple[str, str], ...] | None


async def explain(connection: Connection, query: Query) -> Plan:
    """Plans a query, which locks what the query reads."""
    answer = await connection.fetchval(f"EXPLAIN (VERBOSE, FORMAT JSON) {query.sql}")
    root = json.loads(answer)[0]["Plan"]
    try:
        scans = tuple(_scans(root))
    except _OtherPlanError:
        scans = None
    return Plan(int(root["Plan Rows"]), root["Total Cost"], scans)


async def heaps_of(connection: Connection, dataset: Dataset, plan: Plan) -> list[Heap] | None:
    """Returns the heaps that a plan scans; None if the query cannot be read by blocks."""
    if not dataset.stores_rows or plan.scans is None:
        return None
    schemas, names = [schema for schema, _ in plan.scans], [name for _, name in plan.scans]
    rows = await connection.fetch(HEAPS, schemas, names, quote_relation(dataset.schema, dataset.relation))
    if len(rows) < len(plan.scans) or not all(row["readable"] for row in rows):
        return None
    return [Heap(row["schema"], row["name"], row["oid"], row["blocks"]) for row in rows]


class _OtherPlanError(Exception):
    pass


def _scans(node: dict[str, Any]) -> Iterator[tuple[str, str]]:
    match node["Node Type"], node.get("Plans", []):
        case "Seq Scan", []:
            yield node["Schema"], node["Relation Name"]
        case "Result", [] if node.get("One-Time Filter") == "false":
            return  # no partition can have such a row
        case "Append", children:
            for child in children:
                yield from _scans(child)
        case _:
            raise _OtherPlanError
