"""EXPORT_CONNECTIONS=auto: how many connections one export may use, decided once, at the start.

Two are the base, also on one core: PostgreSQL needs more CPU for a row than this server. Each further one needs another
core, memory (for a large row, and for rows that are held), and a connection that the database allows to every
concurrent export.
"""

import logging
from dataclasses import dataclass

from msgspec.structs import replace

from streamer.budget import budget, total
from streamer.config import AUTO, ConnectionCount, Settings
from streamer.postgres.capacity import free_connections
from streamer.postgres.driver import Pool
from streamer.process.cores import cores
from streamer.process.memory import memory

log = logging.getLogger(__name__)

BASE_CONNECTIONS = 2
MAX_CONNECTIONS = 8  # beyond, one event loop is the limit: tests/bench/bench_event_loop.py
HEALTH_CHECK = 4 * 1024 * 1024  # bytes of the process that checks the container, beside the server


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most connections that one export may use, by what limits them; None if the database does not tell."""

    cores: int
    memory: int
    database: int | None = None

    @property
    def connections(self) -> int:
        """The least of the limits, at least 1."""
        known = [self.cores, self.memory] if self.database is None else [self.cores, self.memory, self.database]
        return max(1, min(known))

    def __str__(self) -> str:
        database = "does not tell" if self.database is None else f"allows {max(self.database, 0)}"
        return f"cores allow {self.cores}, memory {self.memory}, the database {database}"


def limits(settings: Settings, *, cores: int, memory: int, free: int | None = None) -> Limits:
    """Returns the limits on a machine with so many cores and bytes of memory.

    `free` is how many connections the database allows to all exports together, None if it does not tell.
    """
    return Limits(
        cores=max(BASE_CONNECTIONS, min(cores, MAX_CONNECTIONS)),
        memory=_affordable(settings, memory),
        database=None if free is None else free // settings.max_concurrent_exports,
    )


def _affordable(settings: Settings, memory: int) -> int:
    """Returns the largest number whose budget fits into the memory, and the base in any case."""
    numbers = range(MAX_CONNECTIONS, BASE_CONNECTIONS, -1)
    needed = ((number, total(budget(_with(settings, number))) + HEALTH_CHECK) for number in numbers)
    return next((number for number, size in needed if size <= memory), BASE_CONNECTIONS)


def chosen_by_machine(settings: Settings) -> Settings:
    """Returns the settings with a number in the place of `auto`, as if the database allowed any."""
    if settings.export_connections != AUTO:
        return settings
    return _with(settings, limits(settings, cores=cores(), memory=memory()).connections)


async def choose(settings: Settings, source: Pool, *, reserved: int) -> int:
    """Returns the number of connections of one export, and logs why `auto` has become that number.

    `reserved` is how many connections the server will open to the source database beside those of exports.
    """
    if settings.export_connections != AUTO:
        return settings.export_connections
    free = await free_connections(source)
    found = limits(settings, cores=cores(), memory=memory(), free=None if free is None else free - reserved)
    log.info("EXPORT_CONNECTIONS=auto: at most %d connections per export (%s)", found.connections, found)
    return found.connections


def _with(settings: Settings, connections: int) -> Settings:
    return replace(settings, export_connections=ConnectionCount(connections))
