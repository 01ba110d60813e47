"""The database in its container: healthy when it is filled, filled once, and whole after a crash."""

import subprocess

import pytest

from tests.containers.stack import LONG, ROWS, Stack, engine_answers, stack, until

KEYS = "SELECT count(*) FROM pg_index WHERE indrelid = 'users'::regclass AND indisvalid"
DISORDER = "SELECT count(*) FROM (SELECT id < lag(id) OVER () AS wrong FROM users) AS pairs WHERE wrong"

pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(LONG),
    pytest.mark.skipif(not engine_answers(), reason="no docker engine with compose answers"),
]


def assert_filled(database: Stack) -> None:
    assert int(database.psql("SELECT count(*) FROM users")) == ROWS
    assert (database.psql(KEYS), database.psql(DISORDER)) == ("5", "0")


def kill(database: Stack) -> None:
    subprocess.run(["docker", "kill", database.container("db")], check=True, capture_output=True)


def test_the_database_is_healthy_once_it_is_filled_and_keeps_that_through_a_crash() -> None:
    with stack() as database:
        database.up("db")
        assert_filled(database)
        kill(database)
        database.up("db")
        assert_filled(database)
        assert database.psql("SHOW fsync") == database.psql("SHOW synchronous_commit") == "on"


def test_a_first_start_that_was_interrupted_begins_anew() -> None:
    with stack() as database:
        database.compose("up", "--detach", "db")
        until(lambda: "seed.sh" in database.log("db"), "seeding has begun", within=60)
        kill(database)
        assert database.inspect("db")["State"]["Status"] == "exited"
        database.up("db")
        assert_filled(database)
