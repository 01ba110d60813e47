"""What the planner says of a query, and the heaps that a sequential scan of it would read.

Block ranges are for what would be scanned anyway: a plan of sequential scans and nothing else, over heaps that this
role may read one by one. A filter that an index serves is left to the index.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from streamer.postgres.driver import Connection
from streamer.postgres.quoting import quote_relation
from streamer.source.dataset import Dataset
from streamer.source.query.query import Query


@dataclass(frozen=True, slots=True)
class Heap:
    """A table with storage of its own, and its size in blocks."""

    schema: str
    name: str
    oid: int
    blocks: int


# Of the relations scanned, in their order: whether each can be read by blocks, under its own name, as the query does.
# Row policies and virtual generated columns are those of the relation that is named: a partition has other ones than
# the table it belongs to.
HEAPS = """
    SELECT n.nspname AS schema, c.relname AS name, c.oid,
           (pg_relation_size(c.oid) / current_setting('block_size')::int) AS blocks,
           am.amname = 'heap' AND c.relispopulated
               AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
               AND (c.oid = whole.oid OR NOT (c.relrowsecurity OR whole.relrowsecurity OR EXISTS (
                   SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated = 'v'
               ))) AS readable
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS scanned (schema, name, place)
    JOIN pg_namespace n ON n.nspname = scanned.schema
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = scanned.name
    JOIN pg_am am ON am.oid = c.relam
    JOIN pg_class whole ON whole.oid = to_regclass($3)
    ORDER BY place
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """`expected` rows; `scans` are the relations scanned in order, None if anything but sequential scans is planned.

    `cost` is that of all rows, in blocks that are read in sequence unless the server counts otherwise.
    """

    expected: int
    cost: float
    scans: tuple[tuple[str, str], ...] | None


async def explain(connection: Connection, query: Query) -> Plan:
    answer = await connection.fetchval(f"EXPLAIN (VERBOSE, FORMAT JSON) {query.sql}")
    root = json.loads(answer)[0]["Plan"]
    try:
        scans = tuple(_scans(root))
    except _OtherPlanError:
        scans = None
    return Plan(int(root["Plan Rows"]), root["Total Cost"], scans)


async def heaps_of(connection: Connection, dataset: Dataset, plan: Plan) -> list[Heap] | None:
    """The heaps to read block by block instead; None if the query cannot be read so."""
    if not dataset.plain or plan.scans is None:
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
