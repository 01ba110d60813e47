"""One export's database session: a snapshot, and settings under which PostgreSQL prints every value in one way.

All rows of an export are of one REPEATABLE READ READ ONLY snapshot. The settings are local to the transaction, so a
pooled connection goes back as it came, and a pooler that refuses start-up parameters has nothing to refuse.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from streamer.source.database import Connection, Pool

log = logging.getLogger(__name__)

SETTINGS = {
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    "standard_conforming_strings": "on",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    # The same query gives the same rows in the same order: no worker race, no scan that joins another one half way.
    "max_parallel_workers_per_gather": "0",
    "synchronize_seqscans": "off",
    # A FETCH cursor is planned for all of its rows, as COPY is, not for its first tenth.
    "cursor_tuple_fraction": "1",
    # Compiling a plan costs more than the first rows.
    "jit": "off",
}
PREPARE = "SELECT now(), " + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in SETTINGS.items())
CLEAN_UP = 10.0  # seconds for a cancelled query to end and its transaction to be rolled back


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An open transaction, and the moment it sees."""

    connection: Connection
    taken_at: datetime


@asynccontextmanager
async def open_snapshot(pool: Pool) -> AsyncIterator[Snapshot]:
    """A read-only transaction on a connection of its own.

    However it is left, the query has ended in the server when the connection goes back, or the connection is dropped.
    """
    connection = await pool.acquire()
    try:
        transaction = connection.transaction(isolation="repeatable_read", readonly=True)
        await transaction.start()
        try:
            row = await connection.fetchrow(PREPARE)
            yield Snapshot(connection, row["now"])
        finally:
            await _roll_back(connection, transaction)
    finally:
        await pool.release(connection)


async def _roll_back(connection: Connection, transaction: asyncpg.transaction.Transaction) -> None:
    """asyncpg answers a cancelled query with a CancelRequest; the rollback waits until that has been obeyed."""
    try:
        async with asyncio.timeout(CLEAN_UP):
            await transaction.rollback()
    except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        log.warning("dropped a connection that could not be rolled back: %r", error)
        connection.terminate()
