"""Statements on the exports table: how they are executed, and which errors may pass.

SQL lives in sql/, one statement in each file, named after the method that executes it. Each statement is a transaction
of its own, so it works at every default isolation level of the role.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar
from uuid import UUID

import asyncpg
import tenacity

from streamer.errors import Unavailable
from streamer.jobs.times import JobTimes
from streamer.model import Export
from streamer.postgres.driver import Connection, Pool
from streamer.postgres.failures import CONNECTION_LOST
from streamer.postgres.statements import read_all_sql

STATEMENTS = read_all_sql("streamer.jobs")

MAX_CONFLICTS = 10  # times that one statement is tried
CONFLICTS = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
TEMPORARY_ERRORS = (
    *CONFLICTS,
    asyncpg.ReadOnlySQLTransactionError,  # a standby, or a disk that is nearly full
    asyncpg.InsufficientPrivilegeError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,  # by a statement_timeout of the role
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
)
"""Errors that are no fault of the statement, and may pass."""

T = TypeVar("T")
Work = Callable[[Connection], Awaitable[T]]


class Table:
    """Executes statements. Every method raises Unavailable."""

    statements: Mapping[str, str] = STATEMENTS  # by their names

    def __init__(self, pool: Pool, times: JobTimes) -> None:
        self._pool = pool
        self._times = times

    async def _find(self, statement: str, *arguments: object) -> Export | None:
        rows = await self._rows(statement, *arguments)
        return Export.from_row(rows[0]) if rows else None

    async def _ids(self, statement: str, *arguments: object) -> list[UUID]:
        return [row["id"] for row in await self._rows(statement, *arguments)]

    async def _changes(self, statement: str, *arguments: object) -> bool:
        """Returns whether the statement has changed a row."""
        return bool(await self._rows(statement, *arguments))

    async def _rows(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        async def work(connection: Connection) -> list[asyncpg.Record]:
            return await self._fetch(connection, statement, *arguments)

        return await self._execute(work)

    async def _fetch(self, connection: Connection, statement: str, *arguments: object) -> list[asyncpg.Record]:
        timeout = self._times.statement_timeout
        rows: list[asyncpg.Record] = await connection.fetch(self.statements[statement], *arguments, timeout=timeout)
        return rows

    async def _execute(self, work: Work[T]) -> T:
        """Does the work on a connection. Raises Unavailable if the database does not answer, or cannot do it now.

        asyncpg may swallow a cancellation if the connection breaks at the same time; it is raised again here.
        """
        task = asyncio.current_task()
        assert task is not None
        cancellations = task.cancelling()
        try:
            async for attempt in _retrying_conflicts():
                with attempt:
                    return await self._attempt(work)
            raise AssertionError("tenacity either returns an attempt or raises")
        except CONNECTION_LOST as error:
            raise Unavailable("the database does not answer") from error
        except TEMPORARY_ERRORS as error:
            raise Unavailable("the exports table cannot be used at the moment") from error
        finally:
            if task.cancelling() > cancellations:
                raise asyncio.CancelledError

    async def _attempt(self, work: Work[T]) -> T:
        async with self._pool.acquire(timeout=self._times.statement_timeout) as connection:
            return await work(connection)


def _retrying_conflicts() -> tenacity.AsyncRetrying:
    """Retries what was rolled back because of a concurrent statement."""
    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(CONFLICTS),
        stop=tenacity.stop_after_attempt(MAX_CONFLICTS),
        wait=tenacity.wait_random(0, 0.1),
        reraise=True,
    )
