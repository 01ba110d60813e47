"""The committed states of what is exported, and the judgement whether an export is one of them.

A change of the source and the description of the state that it leaves are one transaction, so that the ledger is never
ahead of the rows nor behind them. What describes a state are the digests of the answers to a few questions (datasets,
columns, conditions, orders, roles), which COPY gives on the connection that made the change: nothing of streamer is in
them. All rows of a state carry its generation or an older one, so that a body of two states has a digest of none.

An export that starts after the commit of state `a`, and has ended before that of state `b + 1`, is of one of the states
`a` to `b`. The rows of a state were committed after its `at`; a snapshot that is said to be older cannot have them.
A change that commits its work and its description one after the other announces the state before, and settles it
afterwards.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from streamer.model import Condition, Dialect, ExportSpec, Operator, Order, Timestamps
from tests.integration.sources import Plain, copied

MADE = """
    CREATE TABLE ledger (
        state bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        subject text NOT NULL,
        change text NOT NULL,
        settled boolean NOT NULL,
        at timestamptz NOT NULL DEFAULT clock_timestamp(),
        digests jsonb NOT NULL
    )
"""
HIDDEN = "secret"  # the column that no export may show, of every table that has one
CANARY = "CANARY"  # what its values begin with
CLOCK = timedelta(milliseconds=1)  # what the status of an export says of a moment is cut to milliseconds
COLUMNS = """
    SELECT attname::text FROM pg_attribute
    WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attname <> $2
      AND has_column_privilege(attrelid, attnum, 'SELECT')
    ORDER BY attnum
"""
TYPES = "SELECT attname::text, atttypid::regtype::text AS type FROM pg_attribute WHERE attrelid = $1::text::regclass"
FORMULAS = r"^[=+\-@\t\r\n]"  # the texts that a spreadsheet would take for a formula


@dataclass(frozen=True)
class Question:
    """What is asked of a dataset; without `columns`, all that are offered."""

    name: str
    columns: tuple[str, ...] | None = None
    least_id: int | None = None  # a filter
    order: bool = False  # by `id`, descending
    limit: int | None = None
    excel: bool = False  # formulas are escaped, and timestamps are ISO 8601

    def spec(self, dataset: str, offered: Iterable[str]) -> ExportSpec:
        conditions = [Condition(column="id", operator=Operator.GTE, values=(str(self.least_id),))]
        excel = Dialect(escape_formulas=True, timestamps=Timestamps.ISO8601)
        return ExportSpec(
            dataset=dataset,
            columns=self.columns or tuple(offered),
            conditions=tuple(conditions if self.least_id is not None else ()),
            order=(Order(column="id", descending=True),) if self.order else (),
            limit=self.limit,
            dialect=excel if self.excel else Dialect(),
        )

    def parameters(self, dataset: str) -> dict[str, str]:
        """The same over HTTP."""
        said = {
            "columns": ",".join(self.columns or ()),
            "id__gte": "" if self.least_id is None else str(self.least_id),
            "order_by": "-id" if self.order else "",
            "limit": str(self.limit or ""),
            "escapeFormulas": "true" if self.excel else "",
            "timestamps": "iso8601" if self.excel else "",
        }
        return {"dataset": dataset, **{name: value for name, value in said.items() if value}}

    def sql(self, dataset: str, columns: Sequence[str], types: Mapping[str, str]) -> str:
        listed = [f"{_as_excel(name, types[name])} AS {name}" if self.excel else name for name in columns]
        where = "" if self.least_id is None else f" WHERE id >= {self.least_id}"
        order = f" ORDER BY {dataset}.id DESC" if self.order else ""
        limit = f" LIMIT {self.limit}" if self.limit else ""
        return f"SELECT {', '.join(listed)} FROM {dataset}{where}{order}{limit}"


def _as_excel(name: str, type_name: str) -> str:
    match type_name:
        case "text" | "character varying":
            return f"regexp_replace({name}, '({FORMULAS})', '''\\1')"
        case "timestamp with time zone":
            return f'to_char({name}, \'YYYY-MM-DD"T"HH24:MI:SS"Z"\')'
        case _:
            return name


WHOLE = Question("whole")
NARROW = Question("narrow", columns=("generation", "id"), least_id=100)
LAST = Question("last", columns=("id", "generation", "filler"), order=True, limit=300)
EXCEL = Question("excel", excel=True)


@dataclass(frozen=True)
class Asked:
    """A question to a dataset, with or without the role."""

    dataset: str
    question: Question
    as_role: bool = False

    def key(self, columns: Iterable[str]) -> str:
        """The name of the answer in the ledger."""
        return " ".join((self.dataset, self.question.name, "as role" if self.as_role else "", ",".join(columns)))


def digest_of(body: bytes, *, ordered: bool) -> str:
    """Of the header and the rows; where nobody asked for an order, of the rows in any."""
    head, *rows = body.splitlines(keepends=True)
    return hashlib.sha256(b"".join([head, *(rows if ordered else sorted(rows))])).hexdigest()


@dataclass
class LedgerWriter:
    """Describes the states of one subject. `lists` are the columns that each dataset was seen to offer."""

    plain: Plain
    subject: str
    asked: Sequence[Asked]
    role: str
    lists: dict[tuple[str, bool], list[tuple[str, ...]]] = field(default_factory=dict)

    async def describe(self, change: str) -> None:
        """Within the transaction of the change, at its end."""
        await self.write(change, await self.answers())

    async def write(self, change: str, answers: Mapping[str, str], *, settled: bool = True) -> int:
        """Returns the number of the state."""
        state: int = await self.plain.fetchval(
            "INSERT INTO ledger (subject, change, settled, digests) VALUES ($1, $2, $3, $4) RETURNING state",
            *(self.subject, change, settled, json.dumps(answers)),
        )
        return state

    async def answers(self) -> Mapping[str, str]:
        return dict([answer for asked in self.asked for answer in await self._answers(asked)])

    async def settle(self, state: int) -> None:
        await self.plain.execute("UPDATE ledger SET settled = true WHERE state = $1", state)

    async def _answers(self, asked: Asked) -> list[tuple[str, str]]:
        if asked.as_role:
            await self.plain.execute(f"SET LOCAL ROLE {self.role}")
        offered = tuple(row["attname"] for row in await self.plain.fetch(COLUMNS, asked.dataset, HIDDEN))
        types = {row["attname"]: row["type"] for row in await self.plain.fetch(TYPES, asked.dataset)}
        answers = []
        for columns in self._lists(asked, offered):
            if set(columns) <= set(offered):
                body = await copied(self.plain, asked.question.sql(asked.dataset, columns, types))
                answers.append((asked.key(columns), digest_of(body, ordered=asked.question.order)))
        await self.plain.execute("RESET ROLE")
        return answers

    def _lists(self, asked: Asked, offered: tuple[str, ...]) -> list[tuple[str, ...]]:
        """A request that came before the last change of the columns names those of then."""
        if asked.question.columns:
            return [asked.question.columns]
        lists = self.lists.setdefault((asked.dataset, asked.as_role), [])
        if offered not in lists:
            lists.append(offered)
        return lists


@dataclass(frozen=True)
class State:
    number: int
    at: datetime
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Begun:
    """An export that has begun: its snapshot sees the state `since`, or a later one."""

    subject: str
    asked: Asked
    since: int


@dataclass
class Judge:
    """Reads the ledger where the exports read their rows."""

    plain: Plain

    async def begin(self, subject: str, asked: Asked) -> Begun:
        """To be called before the export begins."""
        found = await self.plain.fetchval("SELECT max(state) FROM ledger WHERE subject = $1 AND settled", subject)
        return Begun(subject, asked, int(found))

    async def flaw(self, begun: Begun, body: bytes, snapshot_at: datetime) -> str | None:
        """What is wrong with an export that has ended; None if nothing is."""
        if CANARY.encode() in body:
            return "a hidden value is in it"
        columns = body.partition(b"\n")[0].decode().split(",")
        states = await self._states(begun)
        digest = digest_of(body, ordered=begun.asked.question.order)
        matching = [state for state in states if state.digests.get(begun.asked.key(columns)) == digest]
        if not matching:
            other = await self._other(begun, columns, digest)
            return f"it is {other}, not one of {states[0].number} to {states[-1].number}: {_summary(body, columns)}"
        if all(state.at > snapshot_at + CLOCK for state in matching):
            early = (matching[0].at - snapshot_at).total_seconds()
            return f"its rows were committed {early:.3f} s after its snapshotAt"
        return None

    async def _other(self, begun: Begun, columns: Sequence[str], digest: str) -> str:
        """Of which state it would have been right."""
        found = await self.plain.fetchval(
            "SELECT min(state) FROM ledger WHERE subject = $1 AND digests ->> $2 = $3",
            *(begun.subject, begun.asked.key(columns), digest),
        )
        return "no state" if found is None else f"state {found}"

    async def offered(self, asked: Asked, role: str | None) -> list[str]:
        """The columns that are to be offered of a dataset."""
        async with self.plain.transaction():
            if role:
                await self.plain.execute(f"SET LOCAL ROLE {role}")
            return [row["attname"] for row in await self.plain.fetch(COLUMNS, asked.dataset, HIDDEN)]

    async def _states(self, begun: Begun) -> list[State]:
        rows = await self.plain.fetch(
            "SELECT state, at, digests FROM ledger WHERE subject = $1 AND state >= $2 ORDER BY state",
            *(begun.subject, begun.since),
        )
        return [State(row["state"], row["at"], json.loads(row["digests"])) for row in rows]


def _summary(body: bytes, columns: Sequence[str]) -> str:
    rows = body.decode().splitlines()[1:]
    if "generation" not in columns:
        return f"{len(rows)} rows, columns {columns}"
    place = columns.index("generation")
    counted = Counter(row.split(",")[place] for row in rows)
    return f"{len(rows)} rows, generations {dict(counted.most_common(6))}, columns {columns}"
