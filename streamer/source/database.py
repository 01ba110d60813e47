"""Connection pools, and the patience to wait for a database that comes up late.

What time can heal (nobody listens yet, the server is starting) is waited for. What it cannot heal (a wrong password, a
database that does not exist) ends the start at once.
"""

import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import asyncpg
import tenacity

from streamer.errors import StartError
from streamer.source.metering import MeteredConnection

log = logging.getLogger(__name__)

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

CONNECT_TIMEOUT = 10.0  # seconds for one attempt
PAUSES = tenacity.wait_exponential(multiplier=0.25, max=5)  # seconds between two attempts, more and more
UNREACHABLE = (
    OSError,
    TimeoutError,
    asyncpg.CannotConnectNowError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.TooManyConnectionsError,
)
LOST = (
    *UNREACHABLE,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)
"""How a database that was there, and may be again, is seen by a statement."""


async def connect(url: str, *, name: str, size: int, wait: float, row_limit: int = sys.maxsize) -> Pool:
    """A pool of at most `size` connections to `url`, waiting up to `wait` seconds for the database to answer.

    A row of more than about `row_limit` bytes ends its connection. Raises StartError with one line that never shows a
    password.
    """
    try:
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(UNREACHABLE),
            stop=tenacity.stop_after_delay(wait),
            wait=PAUSES,
            before_sleep=say_waiting(log, name),
            reraise=True,
        ):
            with attempt:
                pool = await asyncpg.create_pool(
                    url,
                    min_size=0,  # the pool would restore a minimum by itself, and log each failure with a traceback
                    max_size=size,
                    timeout=min(CONNECT_TIMEOUT, max(wait, 1.0)),
                    command_timeout=None,  # it would cover a whole COPY, the time in the sink included
                    max_inactive_connection_lifetime=300.0,
                    # A pooler may give each transaction another session, where the name of a prepared statement may be
                    # that of another client's: its rows would come instead of ours.
                    statement_cache_size=0,
                    server_settings={"application_name": "streamer"},
                    connection_class=MeteredConnection,
                    init=_limited_to(row_limit),
                )
                async with pool.acquire():
                    return pool
    except UNREACHABLE as error:
        raise StartError(f"{name}: no answer from the database within {wait:g} s: {one_line(error)}") from error
    except asyncpg.PostgresError as error:
        raise StartError(f"{name}: {one_line(error)}") from error
    except (asyncpg.InterfaceError, ValueError, OverflowError) as error:
        # What the driver says of it may hold a part of it, and so of the password.
        raise StartError(f"{name}: is not a URL of a PostgreSQL database that can be understood") from error
    raise AssertionError("tenacity either returns an attempt or raises")


class Connections:
    """The connections to the source, shared by all exports, which use them as `role`.

    Each of `leads` exports at once has one that is its own. What the pool has beyond these is given to those who ask
    first, up to `helpers` for one export: nobody ever waits for a second connection.
    """

    def __init__(self, pool: Pool, *, leads: int, helpers: int, role: str | None = None) -> None:
        self.pool = pool
        self.role = role
        self.helpers = helpers
        self._spare = pool.get_max_size() - leads

    @contextmanager
    def one_more(self) -> Iterator[bool]:
        """Whether one more connection may be used while the context is open."""
        granted = self._spare > 0
        self._spare -= granted
        try:
            yield granted
        finally:
            self._spare += granted


def _limited_to(row_limit: int) -> Callable[[Connection], Awaitable[None]]:
    async def limit(connection: Connection) -> None:
        connection.meter.limit = row_limit

    return limit


def say_waiting(to: logging.Logger, name: str) -> Callable[[tenacity.RetryCallState], None]:
    """Tells who waits, and why, before each pause."""

    def say(retry: tenacity.RetryCallState) -> None:
        error = retry.outcome.exception() if retry.outcome else None
        to.warning("%s: waiting for the database: %s", name, one_line(error))

    return say


def one_line(error: BaseException | None) -> str:
    """An error's message without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
