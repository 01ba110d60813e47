"""Why a database cannot be connected to: each kind of failure has a sentence that says what to do."""

import socket

import asyncpg
import pytest

from streamer.postgres.conninfo import ConnectionParameters, from_parts, from_url
from streamer.postgres.refusals import explain

BY_URL = from_url("postgresql://u:hunter2@db:1/d", "DATABASE_URL")
BY_PARTS = from_parts(host="db", port="1", user="u", password="hunter2", name="d")
WITHOUT_PASSWORD = from_parts(host="db", port="1", user="u", password="", name="d")
SEVERAL = from_url("postgresql://u:hunter2@h1:1,h2:2/d", "DATABASE_URL")
SOCKET = from_url("postgresql:///d?host=/run", "DATABASE_URL")

WRONG_PASSWORD = asyncpg.InvalidPasswordError('password authentication failed for user "u"')
NO_DATABASE = asyncpg.InvalidCatalogNameError('database "d" does not exist')
REFUSED_TWICE = OSError(
    "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), [Errno 111] Connect call failed ('127.0.0.1', 1)"
)


@pytest.mark.parametrize(
    ("error", "parameters", "sentence"),
    [
        (ConnectionRefusedError(111, "x"), BY_URL, "db:1 refused the connection; is PostgreSQL running there?"),
        (REFUSED_TWICE, BY_URL, "db:1 refused the connection; is PostgreSQL running there?"),
        (ConnectionRefusedError(111, "x"), SEVERAL, "the last host of h1:1 and h2:2 refused the connection; is "),
        (FileNotFoundError(2, "x"), SOCKET, "there is no socket /run/.s.PGSQL.5432; is PostgreSQL running there?"),
        (PermissionError(13, "x"), SOCKET, "/run/.s.PGSQL.5432 may not be used by this user; check the permissions"),
        (OSError(113, "No route to host"), BY_URL, "db:1 cannot be reached; check the host, the port and the network"),
        (socket.gaierror(-2, "Name or service not known"), BY_URL, "no address is known for db:1; check the name"),
        (TimeoutError(), BY_URL, "db:1 did not answer in time; check the host and the port"),
        (ConnectionResetError(104, "x"), BY_URL, "db:1 closed the connection; is it PostgreSQL that listens there?"),
        (asyncpg.ConnectionDoesNotExistError("x"), BY_URL, "db:1 closed the connection; is it PostgreSQL"),
        (WRONG_PASSWORD, BY_URL, f"{WRONG_PASSWORD}; check the user and the password in DATABASE_URL"),
        (WRONG_PASSWORD, BY_PARTS, f"{WRONG_PASSWORD}; check DB_USER and DB_PASSWORD"),
        (WRONG_PASSWORD, WITHOUT_PASSWORD, f"{WRONG_PASSWORD}; the database asks for a password: set DB_PASSWORD"),
        (NO_DATABASE, BY_URL, f"{NO_DATABASE}; create it, or check the name of the database in DATABASE_URL"),
        (NO_DATABASE, BY_PARTS, f"{NO_DATABASE}; create it, or check DB_NAME"),
        (asyncpg.InvalidAuthorizationSpecificationError("x"), BY_PARTS, "x; check DB_USER"),
        (
            asyncpg.InvalidAuthorizationSpecificationError("no pg_hba.conf entry for host"),
            BY_PARTS,
            "no pg_hba.conf entry for host; allow it in that file",
        ),
        (asyncpg.InsufficientPrivilegeError("x"), BY_URL, "x; check the rights of the user in DATABASE_URL"),
        (asyncpg.TooManyConnectionsError("x"), BY_URL, "x; close others, or raise the limit of PostgreSQL"),
        (asyncpg.CannotConnectNowError("the database system is starting up"), BY_URL, "the database system is start"),
    ],
)
def test_a_failure_is_said_with_what_to_do(
    error: BaseException, parameters: ConnectionParameters, sentence: str
) -> None:
    found = explain(error, parameters)
    assert found.startswith(sentence)
    assert found.isprintable()
    assert "hunter2" not in found
