"""The limit on the size of a row, between a transport and a protocol of the test."""

import asyncio

import pytest

from streamer.errors import ExportFailure
from streamer.postgres.row_limit import READ_SIZE, RowSizeLimit

TOO_LARGE = "a row is larger"


class Driver(asyncio.Protocol):
    """Records what reaches the protocol of the driver."""

    def __init__(self) -> None:
        self.received = b""
        self.events: list[object] = []

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool | None:
        self.events.append("eof")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append(exc)

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")


class Transport(asyncio.Transport):
    """Records its protocol, and whether it was aborted."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: asyncio.BaseProtocol | None = None
        self.aborted = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def abort(self) -> None:
        self.aborted = True


class Limited:
    """A limit with both of its sides."""

    def __init__(self, max_bytes: int) -> None:
        self.transport, self.driver = Transport(), Driver()
        self.limit = RowSizeLimit(self.transport, self.driver)
        self.limit.max_bytes = max_bytes


async def test_everything_up_to_the_limit_reaches_the_driver() -> None:
    parts = Limited(10)
    assert parts.transport.protocol is parts.limit
    with parts.limit.enforced(TOO_LARGE):
        for data in (b"0123", bytes(READ_SIZE), b"456789"):
            parts.limit.data_received(data)
    assert parts.driver.received == b"0123" + bytes(READ_SIZE) + b"456789"
    assert not parts.transport.aborted


async def test_events_of_the_transport_reach_the_driver() -> None:
    parts = Limited(10)
    lost = OSError("gone")
    assert parts.limit.eof_received() is True
    parts.limit.pause_writing()
    parts.limit.resume_writing()
    parts.limit.connection_lost(lost)
    assert parts.driver.events == ["eof", "pause", "resume", lost]


async def test_bytes_are_counted_from_the_last_delivery_and_from_the_start_of_a_query() -> None:
    parts = Limited(10 - READ_SIZE)
    for _ in range(10):
        with parts.limit.enforced(TOO_LARGE) as limit:
            for _ in range(10):
                limit.data_received(b"01234")
                limit.rows_delivered()
                limit.data_received(b"56789")
    assert parts.driver.received == 100 * b"0123456789"
    assert not parts.limit.exceeded


async def test_bytes_outside_of_a_query_are_not_limited() -> None:
    parts = Limited(10)
    parts.limit.data_received(bytes(2 * READ_SIZE))
    assert not parts.transport.aborted


async def test_one_byte_more_than_a_row_and_a_read_aborts_the_connection_and_is_dropped() -> None:
    parts = Limited(10)
    with parts.limit.enforced(TOO_LARGE) as limit:
        limit.data_received(bytes(READ_SIZE + 10))
        limit.data_received(b"x")
    assert parts.transport.aborted
    assert parts.limit.exceeded
    assert parts.driver.received == bytes(READ_SIZE + 10)


async def test_held_data_reaches_the_driver_in_order_after_release() -> None:
    parts = Limited(10)
    parts.limit.hold()
    parts.limit.data_received(b"01")
    parts.limit.hold()
    parts.limit.data_received(b"23")
    assert parts.driver.received == b""
    parts.limit.release()
    parts.limit.data_received(b"45")
    assert parts.driver.received == b"012345"


async def test_held_data_is_dropped_if_the_connection_is_lost() -> None:
    parts = Limited(10)
    parts.limit.hold()
    parts.limit.data_received(b"01")
    parts.limit.connection_lost(None)
    parts.limit.release()
    assert parts.driver.received == b""


async def test_only_an_error_caused_by_the_limit_says_that_a_row_is_too_large() -> None:
    parts = Limited(2048)
    with pytest.raises(ConnectionError, match="by itself"), parts.limit.enforced(TOO_LARGE):
        raise ConnectionError("by itself")
    with (
        pytest.raises(ExportFailure, match=r"^a row is larger than 2 kB, the most that MAX_ROW_SIZE allows$") as failed,
        parts.limit.enforced(TOO_LARGE) as limit,
    ):
        exceed(limit)
    assert isinstance(failed.value.__cause__, ConnectionError)


def exceed(limit: RowSizeLimit) -> None:
    """Fails as the driver does when its connection is lost."""
    limit.data_received(bytes(2048 + READ_SIZE + 1))
    raise ConnectionError("lost")


def test_connections_of_one_event_loop_share_a_buffer_and_those_of_another_do_not() -> None:
    async def buffers() -> tuple[memoryview, memoryview]:
        one, other = Limited(10), Limited(10)
        return one.limit.get_buffer(-1), other.limit.get_buffer(-1)

    (first, second), (third, _) = asyncio.run(buffers()), asyncio.run(buffers())
    assert first.obj is second.obj
    assert first.obj is not third.obj
    assert len(first) == READ_SIZE
