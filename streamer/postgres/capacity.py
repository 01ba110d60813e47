"""How many more connections a database allows: max_connections, CONNECTION LIMIT of the role and of the database."""

import asyncpg

from streamer.postgres.driver import Pool
from streamer.postgres.failures import CONNECTION_LOST
from streamer.postgres.statements import read_sql

FREE_CONNECTIONS = read_sql("streamer.postgres", "free_connections")
ANSWER_TIMEOUT = 10.0  # seconds


async def free_connections(pool: Pool) -> int | None:
    """Returns how many connections the role of the pool may open beside those that are open, which may be negative.

    Returns None if the database does not tell, as one that only speaks the protocol of PostgreSQL.
    """
    try:
        free: int | None = await pool.fetchval(FREE_CONNECTIONS, timeout=ANSWER_TIMEOUT)
    except (asyncpg.PostgresError, *CONNECTION_LOST):
        return None
    return free
