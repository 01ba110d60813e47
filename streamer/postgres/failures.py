"""Errors of database connections: which are temporary, and their messages on one line."""

import asyncpg

UNREACHABLE = (
    OSError,
    TimeoutError,
    asyncpg.CannotConnectNowError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.TooManyConnectionsError,
    asyncpg.TargetServerAttributeNotMatched,
)
"""An attempt to connect failed, and a later one may succeed."""

CONNECTION_LOST = (
    *UNREACHABLE,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)
"""A statement failed because its connection is lost or cannot be made. The database may come back."""


def one_line(error: BaseException | None) -> str:
    """Returns the message of an error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def with_causes(error: BaseException) -> str:
    """Returns the messages of an error and its causes on one line for the log, with their SQLSTATEs."""
    text = one_line(error)
    cause: BaseException | None = error
    while cause is not None:
        message = one_line(cause)
        text += "" if message in text else f": {message}"
        text += f" (SQLSTATE {code})" if (code := getattr(cause, "sqlstate", None)) else ""
        cause = cause.__cause__
    return text
