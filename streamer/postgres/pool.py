"""Connection pools that wait for a database which is not available yet.

A temporary failure (no server at the address, a server that is starting, no primary among the hosts) is retried. A
permanent one (a wrong password, an unknown database, a certificate that is not accepted) ends the start at once.

Several hosts are tried one after the other, each with a timeout of its own. The driver would share one timeout between
all of them, so that an unreachable host would use it up, and would send the password that a password file has for one
host to the others.
"""

import logging
import random
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import asyncpg
import tenacity

from streamer.errors import StartError
from streamer.postgres import tls
from streamer.postgres.conninfo import ConnectionParameters, from_url
from streamer.postgres.driver import Connection, LimitedConnection, Pool
from streamer.postgres.failures import UNREACHABLE, with_causes
from streamer.postgres.hosts import Address
from streamer.postgres.refusals import explain

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0  # seconds for one attempt
IDLE_LIFETIME = 300.0  # seconds after which the pool closes a connection that is not used
BACKOFF = tenacity.wait_exponential(multiplier=0.25, max=5)  # seconds between two attempts


async def connect(
    database: str | ConnectionParameters,
    *,
    name: str,
    size: int,
    wait: float,
    max_row_size: int = sys.maxsize,
    resets: bool = True,
) -> Pool:
    """Returns a pool of at most `size` connections once the database answers, for which it waits up to `wait` seconds.

    `database` may be a URL; `name` is the setting that messages name. A row of more than about `max_row_size` bytes
    closes its connection. Without `resets` the pool does not reset a session after use: for statements that change
    nothing in it. Raises StartError with one line that never contains a password.
    """
    parameters = from_url(database, name) if isinstance(database, str) else database
    try:
        return await _open_pool(parameters, name, size, wait, _initializer(max_row_size, resets=resets))
    except (*UNREACHABLE, asyncpg.PostgresError) as error:
        waited = f" (waited {wait:g} s)" if wait and _is_temporary(error) else ""
        raise StartError(f"{name}: {explain(error, parameters)}{waited}") from error
    except (asyncpg.InterfaceError, ValueError, OverflowError) as error:
        # The message of the driver may repeat a part of the URL, and so of the password.
        raise StartError(f"{name} is not understood by the driver; check each of its parameters") from error


async def connect_alone(parameters: ConnectionParameters) -> Connection:
    """Returns a connection that no pool has, which the caller must close. Raises what a pool's connections raise."""
    connection: Connection = await _connector(parameters, CONNECT_TIMEOUT)()
    return connection


async def _open_pool(
    parameters: ConnectionParameters,
    name: str,
    size: int,
    wait: float,
    initialize: Callable[[Connection], Awaitable[None]],
) -> Pool:
    connect_any_host = _connector(parameters, wait)
    async for attempt in tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(_is_temporary),
        stop=tenacity.stop_after_delay(wait),
        wait=BACKOFF,
        before_sleep=log_waiting(log, name, partial(explain, parameters=parameters)),
        reraise=True,
    ):
        with attempt:
            pool = await asyncpg.create_pool(
                connect=connect_any_host,
                min_size=0,  # a pool restores a minimum in the background, and logs each failure with a traceback
                max_size=size,
                max_inactive_connection_lifetime=IDLE_LIFETIME,
                connection_class=LimitedConnection,
                init=initialize,
            )
            async with pool.acquire():
                return pool
    raise AssertionError("tenacity either returns an attempt or raises")


def _is_temporary(error: BaseException) -> bool:
    return isinstance(error, UNREACHABLE) and not tls.is_permanent(error)


def _connector(parameters: ConnectionParameters, wait: float) -> Callable[..., Awaitable[Any]]:
    """Returns the `connect` of a pool: it connects to the first host that answers and has the wanted attributes.

    Raises StartError, before any connection, if a file cannot be read.
    """
    arguments = _driver_arguments(parameters, wait)

    async def connect_any_host(*_: object, **pool_arguments: Any) -> Any:
        failure: Exception | None = None
        for attributes, address in _candidates(parameters):
            host, port = address
            chosen = {**pool_arguments, **arguments, "host": host, "port": port, "target_session_attrs": attributes}
            try:
                return await asyncpg.connect(**chosen)
            except UNREACHABLE as error:
                failure = error
                if address.is_socket and isinstance(error, OSError) and error.filename is None:
                    error.filename = str(address)  # which asyncio leaves out
        assert failure is not None  # there is at least one host
        raise failure

    return connect_any_host


def _candidates(parameters: ConnectionParameters) -> Iterator[tuple[str, Address]]:
    """Yields each target_session_attrs and address in the order of the attempts."""
    hosts = list(parameters.addresses)
    if parameters.load_balance:
        random.shuffle(hosts)
    wanted = parameters.target_session_attrs
    return product(("standby", "any") if wanted == "prefer-standby" else (wanted,), hosts)


def _driver_arguments(parameters: ConnectionParameters, wait: float) -> Mapping[str, Any]:
    """Raises StartError if a file cannot be read."""
    return {
        **tls.driver_arguments(parameters),
        "user": parameters.user,
        "password": parameters.password,
        "database": parameters.database,
        "passfile": parameters.passfile,
        "krbsrvname": parameters.krbsrvname,
        "gsslib": parameters.gsslib,
        "timeout": min(parameters.connect_timeout or CONNECT_TIMEOUT, max(wait, 1.0)),
        "command_timeout": None,  # it would include the whole COPY, and the time that its output takes
        # A pooler may give each transaction another session, in which the name of a prepared statement may be that of
        # another client, whose rows would be returned.
        "statement_cache_size": 0,
        "server_settings": {"application_name": "streamer", **parameters.server_settings},
    }


def _initializer(max_row_size: int, *, resets: bool) -> Callable[[Connection], Awaitable[None]]:
    async def initialize(connection: Connection) -> None:
        connection.row_size_limit.max_bytes = max_row_size
        connection.resets = resets

    return initialize


def log_waiting(
    to: logging.Logger, name: str, explained: Callable[[BaseException], str] = with_causes
) -> Callable[[tenacity.RetryCallState], None]:
    """Returns a `before_sleep` that logs, before each pause, what `name` waits for."""

    def log_failure(retry: tenacity.RetryCallState) -> None:
        error = retry.outcome.exception() if retry.outcome else None
        assert error is not None  # only failures are retried
        to.warning("%s: waiting for the database: %s", name, explained(error))

    return log_failure
