"""An export that stands still where a test wants it, with bytes that the test knows.

Before some of the rows of a view stands a gate: a function that takes an advisory lock. Whoever holds the lock holds
the export. PostgreSQL gathers the rows of a COPY in a buffer of 8192 bytes and sends it when it is full, so the row
before each gate is as long as the buffer less its head: it drives out every row before it, and its own end stays
behind. While a COPY stands at a gate, the frontier is exactly the beginning of that long row.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import asyncpg

from streamer.config import Names
from tests.exporting import sha256
from tests.polling import until

HEADER = b"id,text\n"
PUSH = 8190 - len(",\n")  # characters; with the 5 bytes that head a message in the protocol, longer than the buffer
GATED_ROWS = 100_000  # of 103 bytes or so: more than the buffers of a connection can hold
GATE_EVERY = 10_000  # rows; the first row has a gate too

GATE = """
    CREATE OR REPLACE FUNCTION gate(view text, row_number bigint) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        PERFORM pg_advisory_lock_shared(hashtext(view), row_number::int);
        PERFORM pg_advisory_unlock_shared(hashtext(view), row_number::int);
        RETURN row_number;
    END $$
"""
LOCK = "SELECT pg_advisory_lock(hashtext($1), row_number) FROM unnest($2::int[]) AS row_number"
UNLOCK = "SELECT pg_advisory_unlock(hashtext($1), row_number) AS was_shut FROM unnest($2::int[]) AS row_number"
AT_A_GATE = """
    SELECT pid FROM pg_locks
    WHERE locktype = 'advisory' AND NOT granted AND classid = hashtext($1)::oid AND objid = $2::int::oid
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
CANCEL_WAITING = """
    SELECT pg_cancel_backend(pid) FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()
"""
BUSY = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'streamer' AND datname = current_database() AND state <> 'idle'
"""


@dataclass(frozen=True)
class Steps:
    """A dataset by its name: how many rows it has, and before which of them stand its gates."""

    name: str
    rows: int
    gates: tuple[int, ...]
    width: int = 3  # times 32 characters make a text

    @classmethod
    def of(cls, name: str, *rows: int, width: int) -> "Steps":
        """So many rows follow the gate of each step, whose own row is one of them, and a long one goes before it."""
        *starts, last = accumulate((count + 1 for count in rows), initial=0)
        return cls(name, last, tuple(start + 2 for start in starts), width)

    @property
    def last(self) -> int:
        return len(self.gates)

    @property
    def select(self) -> str:
        gates = f"ARRAY{list(self.gates)}::bigint[]"
        return f"""
            SELECT CASE WHEN n = ANY ({gates}) THEN gate('{self.name}', n) ELSE n END AS id,
                   CASE WHEN n + 1 = ANY ({gates}) THEN repeat('.', {PUSH} - length(n::text))
                        ELSE repeat(md5(n::text), {self.width}) END AS text
            FROM (SELECT generate_series(1::bigint, {self.rows}) AS n) AS numbers
        """

    def through(self, step: int) -> bytes:
        """What can be read while the export stands at the gate that follows `step`."""
        return self.whole if step == self.last else _csv(self, self.gates[step] - 2)

    @property
    def whole(self) -> bytes:
        return _csv(self, self.rows)


@cache
def _csv(steps: Steps, rows: int) -> bytes:
    long = {gate - 1 for gate in steps.gates}

    def text(n: int) -> str:
        return "." * (PUSH - len(str(n))) if n in long else hashlib.md5(str(n).encode()).hexdigest() * steps.width

    return HEADER + "".join(f"{n},{text(n)}\n" for n in range(1, rows + 1)).encode()


def _gated(name: str, rows: int) -> Steps:
    return Steps(name, rows, (1, *range(GATE_EVERY, rows + 1, GATE_EVERY)))


@cache
def gated_csv(rows: int = GATED_ROWS) -> bytes:
    """What an export of a gated view holds."""
    return _gated("", rows).whole


@cache
def gated_sha256() -> str:
    """Of a gated view with the default number of rows."""
    return sha256(gated_csv())


class Gates:
    """The hand on the gates of the views in a database. Each is open until the test shuts it."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]", url: str) -> None:
        self.connection = connection
        self._url = url
        self._datasets: list[str] = []

    @property
    def settings(self) -> dict[str, Any]:
        """For a server that offers the views made so far."""
        return {"datasets": Names(self._datasets), "source_database_url": self._url}

    async def view(self, name: str, *, rows: int = GATED_ROWS) -> None:
        """With gates at the rows 1, 10,000, 20,000 …"""
        await self.make(_gated(name, rows))

    async def make(self, steps: Steps) -> None:
        await self.connection.execute(GATE)
        await self.dataset(steps.name, steps.select)

    async def dataset(self, name: str, select: str) -> None:
        """A view of one's own making."""
        await self.connection.execute(f"CREATE VIEW {name} AS {select}")
        self._datasets.append(name)

    async def shut(self, view: str, *rows: int) -> None:
        await self.connection.execute(LOCK, view, rows)

    async def open(self, view: str, *rows: int) -> None:
        assert all(row["was_shut"] for row in await self.connection.fetch(UNLOCK, view, rows))

    async def reached(self, view: str, row: int) -> int:
        """Waits for an export to stand at the gate; the process id of its backend."""

        backend: int | None = None

        async def standing() -> bool:
            nonlocal backend
            backend = await self.connection.fetchval(AT_A_GATE, view, row)
            return backend is not None

        await until(standing, f"an export of {view} stands at row {row}")
        assert backend is not None
        return backend

    async def refuse(self) -> None:
        """The database goes no further: whatever waits at a gate fails."""

        async def refused() -> bool:
            return bool(await self.connection.fetch(CANCEL_WAITING))

        await until(refused, "something waits at a gate")

    async def nobody_works(self) -> None:
        """Waits until no connection of a server is busy or in a transaction."""

        async def idle() -> bool:
            return bool(await self.connection.fetchval(BUSY) == 0)

        await until(idle, "no query of the server is left in the database", within=5)
