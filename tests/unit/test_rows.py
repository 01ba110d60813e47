"""The rows of an opened query with a cursor of the test: the row limit, and the failure of a sink."""

from collections.abc import Sequence
from datetime import UTC, datetime

import asyncpg
import pytest

from streamer.errors import ExportFailure
from streamer.source.cursors.cursor import Sink
from streamer.source.rows import Rows
from streamer.source.session.time_limit import TimeLimit

CHUNKS = (b"1\n2\n", b'"3\n"\n4\n', b"5\n")


class ListCursor:
    """Passes on CHUNKS. A failure of its sink becomes another error, as in a driver."""

    expected = 5

    def __init__(self, error: type[Exception] | None = None) -> None:
        self._error = error

    async def drain(self, sink: Sink) -> int:
        try:
            for chunk, rows in zip(CHUNKS, (2, 2, 1), strict=True):
                await sink(chunk, rows)
        except Exception as error:
            if self._error is not None:
                raise self._error("another error") from error
            raise
        return 5


def rows(limit: int | None = None, cursor: ListCursor | None = None) -> Rows:
    return Rows(
        snapshot_at=datetime.now(UTC),
        prologue=b"n\n",
        cursor=cursor or ListCursor(),
        quote='"',
        limit=limit,
        time_limit=TimeLimit(),
    )


@pytest.mark.parametrize(
    ("limit", "chunks", "total", "truncated"),
    [
        (None, [b"n\n", *CHUNKS], 5, False),
        (5, [b"n\n", *CHUNKS], 5, False),
        (4, [b"n\n", b"1\n2\n", b'"3\n"\n4\n'], 4, True),
    ],
)
async def test_a_row_beyond_the_limit_is_not_exported_and_sets_truncated(
    limit: int | None, chunks: Sequence[bytes], total: int, *, truncated: bool
) -> None:
    received: list[bytes] = []

    async def keep(chunk: bytes | bytearray, count: int) -> None:
        received.append(bytes(chunk))

    opened = rows(limit)
    assert await opened.drain(keep) == total
    assert received == chunks
    assert opened.truncated is truncated


@pytest.mark.parametrize("limit", [None, 3, 100])
async def test_the_expected_rows_are_at_most_the_limit(limit: int | None) -> None:
    assert rows(limit).expected == min(5, limit or 5)


@pytest.mark.parametrize("error", [None, RuntimeError, asyncpg.InterfaceError])
async def test_the_failure_of_a_sink_is_raised_as_it_is(error: type[Exception] | None) -> None:
    failure = OSError(28, "No space left on device")

    async def fail(chunk: bytes | bytearray, count: int) -> None:
        if count:
            raise failure

    with pytest.raises(OSError, match="No space") as raised:
        await rows(cursor=ListCursor(error)).drain(fail)
    assert raised.value is failure


async def test_an_error_of_the_database_has_its_message() -> None:
    class FailingCursor(ListCursor):
        async def drain(self, sink: Sink) -> int:
            raise asyncpg.DivisionByZeroError("division by zero")

    async def ignore(chunk: bytes | bytearray, count: int) -> None:
        pass

    with pytest.raises(ExportFailure, match=r"^PostgreSQL: division by zero$"):
        await rows(cursor=FailingCursor()).drain(ignore)
