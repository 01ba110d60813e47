"""Connection pools, and the patience to wait for a database that comes up late.

What time can heal (nobody listens yet, the server is starting) is waited for. What it cannot heal (a wrong password, a
database that does not exist) ends the start at once.
"""

import logging
from typing import Any, TypeAlias

import asyncpg
import tenacity

from streamer.errors import StartError

log = logging.getLogger(__name__)

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

CONNECT_TIMEOUT = 10.0  # seconds for one attempt
UNREACHABLE = (
    OSError,
    TimeoutError,
    asyncpg.CannotConnectNowError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.TooManyConnectionsError,
)


async def connect(url: str, *, name: str, size: int, wait: float) -> Pool:
    """A pool of at most `size` connections to `url`, waiting up to `wait` seconds for the database to answer.

    Raises StartError with one line that never shows a password.
    """
    try:
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(UNREACHABLE),
            stop=tenacity.stop_after_delay(wait),
            wait=tenacity.wait_exponential(multiplier=0.25, max=5),
            before_sleep=_say_waiting(name),
            reraise=True,
        ):
            with attempt:
                return await asyncpg.create_pool(
                    url,
                    min_size=1,
                    max_size=size,
                    timeout=min(CONNECT_TIMEOUT, max(wait, 1.0)),
                    command_timeout=None,  # it would cover a whole COPY, the time in the sink included
                    max_inactive_connection_lifetime=300.0,
                    server_settings={"application_name": "streamer"},
                )
    except UNREACHABLE as error:
        raise StartError(f"{name}: no answer from the database within {wait:g} s: {one_line(error)}") from error
    except asyncpg.PostgresError as error:
        raise StartError(f"{name}: {one_line(error)}") from error
    except (asyncpg.InterfaceError, ValueError, OverflowError) as error:
        # What the driver says of it may hold a part of it, and so of the password.
        raise StartError(f"{name}: is not a URL of a PostgreSQL database that can be understood") from error
    raise AssertionError("tenacity either returns an attempt or raises")


def _say_waiting(name: str) -> Any:
    def say(retry: tenacity.RetryCallState) -> None:
        error = retry.outcome.exception() if retry.outcome else None
        log.warning("%s: waiting for the database: %s", name, one_line(error))

    return say


def one_line(error: BaseException | None) -> str:
    """An error's message without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
