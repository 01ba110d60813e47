"""Messages of database errors on one line."""

import asyncpg
import pytest

from streamer.postgres.failures import CONNECTION_LOST, one_line, with_causes


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\n  two"), "one two"),
        (ValueError(), "ValueError"),
        (TimeoutError(), "TimeoutError"),
        (None, "None"),
    ],
)
def test_one_line_has_the_message_or_the_type(error: BaseException | None, line: str) -> None:
    assert one_line(error) == line


def test_causes_follow_their_error_with_sqlstates() -> None:
    error = ConnectionError("lost")
    error.__cause__ = asyncpg.AdminShutdownError("terminating connection\ndue to administrator command")
    assert with_causes(error) == "lost: terminating connection due to administrator command (SQLSTATE 57P01)"


def test_a_cause_whose_message_is_known_is_not_repeated() -> None:
    error = RuntimeError("the export failed: disk full")
    error.__cause__ = OSError("disk full")
    assert with_causes(error) == "the export failed: disk full"


@pytest.mark.parametrize("error", [asyncpg.InvalidPasswordError, asyncpg.UndefinedTableError, ValueError])
def test_permanent_errors_are_not_lost_connections(error: type[Exception]) -> None:
    assert not issubclass(error, CONNECTION_LOST)
