"""Errors of the database, as errors of an export."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from streamer.errors import ExportFailure, SourceAway, SourceBusy, TransientFailure
from streamer.postgres.failures import CONNECTION_LOST, one_line
from streamer.source.session.consistency import OutdatedCatalogError, is_from_guard

# A dataset is not what the catalog knows: its relation, its columns, its kind, or the privileges on it.
SCHEMA_CHANGED = (
    OutdatedCatalogError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedObjectError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.WrongObjectTypeError,
    asyncpg.InsufficientPrivilegeError,
)

# Another attempt may succeed (PostgreSQL documentation, appendix A).
TRANSIENT = (
    *CONNECTION_LOST,
    asyncpg.SerializationError,  # also a conflict with recovery, on a replica
    asyncpg.DeadlockDetectedError,
    asyncpg.SnapshotTooOldError,
)


@contextmanager
def opening_errors() -> Iterator[None]:
    """Translates errors before the first row. Raises SourceAway and SourceBusy for temporary ones, or ExportFailure."""
    try:
        yield
    except CONNECTION_LOST as error:
        raise SourceAway(_sentence(error)) from error
    except (asyncpg.LockNotAvailableError, *TRANSIENT) as error:
        raise SourceBusy(_sentence(error)) from error
    except asyncpg.PostgresError as error:
        raise ExportFailure(_sentence(error)) from error


@contextmanager
def reading_errors() -> Iterator[None]:
    """Translates errors between rows. Raises TransientFailure, SourceBusy or ExportFailure.

    Their sentence has the message of the database; the context of the error stays in the log.
    """
    try:
        yield
    except TRANSIENT as error:
        raise TransientFailure(_sentence(error)) from error
    except asyncpg.PostgresError as error:
        if is_from_guard(error):
            raise SourceBusy("the tables of the export were changed while it began") from error
        raise ExportFailure(_sentence(error)) from error


def _sentence(error: Exception) -> str:
    if isinstance(error, asyncpg.PostgresError) and not isinstance(error, asyncpg.PostgresConnectionError):
        return f"PostgreSQL: {error.args[0] if error.args else type(error).__name__}"
    cause = error.__cause__  # a message of the server or a pooler before it closed the connection
    reason = f": {one_line(cause)}" if isinstance(cause, asyncpg.PostgresError) else ""
    return f"the connection to the database was lost{reason}"
