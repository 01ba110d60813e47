"""Connection pools, and the patience to wait for a database that comes up late.

What time can heal (nobody listens yet, the server is starting, no host is a primary yet) is waited for. What it cannot
heal (a wrong password, a database that does not exist, a certificate that is not accepted) ends the start at once.

Several hosts are tried one by one, each with its own time: the driver would give one time to all of them, which a host
that is switched off uses up alone, and would send the password that a password file has for one of them to the others.
"""

import logging
import random
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import product
from typing import Any, TypeAlias

import asyncpg
import tenacity

from streamer.errors import StartError
from streamer.postgres import tls
from streamer.postgres.conninfo import ConnectionParameters, from_url
from streamer.postgres.hosts import Address
from streamer.postgres.row_limit import LimitedConnection

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
    asyncpg.TargetServerAttributeNotMatched,
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


async def connect(
    database: str | ConnectionParameters,
    *,
    name: str,
    size: int,
    wait: float,
    row_limit: int = sys.maxsize,
    resets: bool = True,
) -> Pool:
    """A pool of at most `size` connections to `database`, waiting up to `wait` seconds for it to answer.

    `database` may be a URL, and `name` is the setting that messages name. A row of more than about `row_limit` bytes
    ends its connection. Without `resets` a session is not put back after use: for statements that leave nothing in it.
    Raises StartError with one line that never shows a password.
    """
    parameters = from_url(database, name) if isinstance(database, str) else database
    connect_one = _connecting(parameters, wait)
    try:
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_may_be_over_soon),
            stop=tenacity.stop_after_delay(wait),
            wait=PAUSES,
            before_sleep=say_waiting(log, name),
            reraise=True,
        ):
            with attempt:
                pool = await asyncpg.create_pool(
                    connect=connect_one,
                    min_size=0,  # the pool would restore a minimum by itself, and log each failure with a traceback
                    max_size=size,
                    max_inactive_connection_lifetime=300.0,
                    connection_class=LimitedConnection,
                    init=_prepared(row_limit, resets=resets),
                )
                async with pool.acquire():
                    return pool
    except UNREACHABLE as error:
        if tls.no_time_heals(error):
            raise StartError(f"{name}: {tls.explained(error, parameters)}") from error
        raise StartError(f"{name}: no answer from the database within {wait:g} s: {one_line(error)}") from error
    except asyncpg.PostgresError as error:
        raise StartError(f"{name}: {one_line(error)}") from error
    except (asyncpg.InterfaceError, ValueError, OverflowError) as error:
        # What the driver says of it may hold a part of it, and so of the password.
        raise StartError(f"{name}: is not understood by the driver") from error
    raise AssertionError("tenacity either returns an attempt or raises")


def _may_be_over_soon(error: BaseException) -> bool:
    return isinstance(error, UNREACHABLE) and not tls.no_time_heals(error)


def _connecting(parameters: ConnectionParameters, wait: float) -> Callable[..., Awaitable[Any]]:
    """What a pool calls for a new connection: the first host that answers, and is of the kind that is wanted.

    Raises StartError where a file cannot be read, now.
    """
    arguments = _driver_arguments(parameters, wait)

    async def connect_one(*_: object, **of_the_pool: Any) -> Any:
        failure: Exception | None = None
        for target, address in _candidates(parameters):
            host, port = address
            chosen = {**of_the_pool, **arguments, "host": host, "port": port, "target_session_attrs": target}
            try:
                return await asyncpg.connect(**chosen)
            except UNREACHABLE as error:
                failure = error
                if address.is_socket and isinstance(error, OSError) and error.filename is None:
                    error.filename = str(address)  # which asyncio leaves out
        assert failure is not None  # there is one host at least
        raise failure

    return connect_one


def _candidates(parameters: ConnectionParameters) -> Iterator[tuple[str, Address]]:
    """In the order in which they are tried."""
    hosts = list(parameters.addresses)
    if parameters.balanced:
        random.shuffle(hosts)
    wanted = parameters.target_session_attrs
    return product(("standby", "any") if wanted == "prefer-standby" else (wanted,), hosts)


def _driver_arguments(parameters: ConnectionParameters, wait: float) -> Mapping[str, Any]:
    """Raises StartError."""
    return {
        **tls.driver_arguments(parameters),
        "user": parameters.user,
        "password": parameters.password,
        "database": parameters.database,
        "passfile": parameters.passfile,
        "krbsrvname": parameters.krbsrvname,
        "gsslib": parameters.gsslib,
        "timeout": min(parameters.connect_timeout or CONNECT_TIMEOUT, max(wait, 1.0)),
        "command_timeout": None,  # it would cover a whole COPY, the time in the sink included
        # A pooler may give each transaction another session, where the name of a prepared statement may be that of
        # another client's: its rows would come instead of ours.
        "statement_cache_size": 0,
        "server_settings": {"application_name": "streamer", **parameters.server_settings},
    }


def _prepared(row_limit: int, *, resets: bool) -> Callable[[Connection], Awaitable[None]]:
    async def prepare(connection: Connection) -> None:
        connection.meter.limit = row_limit
        connection.resets = resets

    return prepare


def say_waiting(to: logging.Logger, name: str) -> Callable[[tenacity.RetryCallState], None]:
    """Tells who waits, and why, before each pause."""

    def say(retry: tenacity.RetryCallState) -> None:
        error = retry.outcome.exception() if retry.outcome else None
        assert error is not None  # only a failure is tried again
        to.warning("%s: waiting for the database: %s", name, with_causes(error))

    return say


def one_line(error: BaseException | None) -> str:
    """An error's message without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def with_causes(error: BaseException) -> str:
    """An error's message and those of its causes on one line, for the log; with the SQLSTATE of what has one."""
    told = one_line(error)
    cause: BaseException | None = error
    while cause is not None:
        said = one_line(cause)
        told += "" if said in told else f": {said}"
        told += f" (SQLSTATE {code})" if (code := getattr(cause, "sqlstate", None)) else ""
        cause = cause.__cause__
    return told
