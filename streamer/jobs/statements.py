"""Executes the statements on the tables of exports: each in a transaction of its own, repeated after a conflict."""

import asyncio
from collections.abc import Sequence

import asyncpg
import tenacity

from streamer.errors import Unavailable
from streamer.postgres.driver import Pool
from streamer.postgres.failures import CONNECTION_LOST

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


class Statements:
    """`timeout` is in seconds, for a connection and for the answer to a statement."""

    def __init__(self, pool: Pool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout

    async def rows(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        """Executes a statement. Raises Unavailable if the database does not answer, or cannot execute it now.

        asyncpg may swallow a cancellation if the connection breaks at the same time; it is raised again here.
        """
        task = asyncio.current_task()
        assert task is not None
        cancellations = task.cancelling()
        try:
            async for attempt in _retrying_conflicts():
                with attempt:
                    return await self._fetch(sql, arguments)
            raise AssertionError("tenacity either returns an attempt or raises")
        except CONNECTION_LOST as error:
            raise Unavailable("the database does not answer") from error
        except TEMPORARY_ERRORS as error:
            raise Unavailable("the exports table cannot be used at the moment") from error
        finally:
            if task.cancelling() > cancellations:
                raise asyncio.CancelledError

    async def _fetch(self, sql: str, arguments: Sequence[object]) -> list[asyncpg.Record]:
        async with self._pool.acquire(timeout=self._timeout) as connection:
            rows: list[asyncpg.Record] = await connection.fetch(sql, *arguments, timeout=self._timeout)
            return rows


def _retrying_conflicts() -> tenacity.AsyncRetrying:
    """Retries a statement that was rolled back because of a concurrent one.

    Each statement is a transaction of its own, so it works at every default isolation level of the role.
    """
    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(CONFLICTS),
        stop=tenacity.stop_after_attempt(MAX_CONFLICTS),
        wait=tenacity.wait_random(0, 0.1),
        reraise=True,
    )
