"""One project for most of the tests: it takes the longest to come up, and is what a user has."""

from collections.abc import Iterator

import pytest

from tests.containers.stack import Stack, stack

SLOW_ROWS = 120_000
SLOW = f"""
    CREATE VIEW slow AS
    SELECT n AS id, repeat(md5(n::text), 3) AS text, CASE WHEN n % 1000 = 0 THEN pg_sleep(0.1)::text END AS pause
    FROM generate_series(1, {SLOW_ROWS}) AS n
"""  # takes 12 s, whatever the machine: more than SHUTDOWN_TIMEOUT


@pytest.fixture(scope="session")
def running() -> Iterator[Stack]:
    """Both services with their defaults, but for a view that is slow beside the users."""
    with stack(DATASETS="users,slow") as project:
        project.up("db")
        project.psql(SLOW)
        project.up()
        yield project
