"""Send buffers: all downloads together queue no more than their budget, and each no more than its quota."""

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from streamer.http.net.readiness import MIN_QUOTA, buffer_holding, queued_bytes, set_send_buffer
from streamer.http.net.send_buffers import (
    BUDGET,
    BUDGET_FRACTION,
    MAX_QUOTA,
    SendBufferBudget,
    SendBufferQuota,
    _let_kernel_size_buffer,
    max_queued_bytes,
)

PATIENCE = 10.0  # seconds for a send buffer to grow
PACKETS = 8 * 1024  # bytes that the kernel may add to what it is given


def test_max_queued_bytes_is_unlimited_buffers_plus_budget_plus_minimum_quotas() -> None:
    assert max_queued_bytes(1, unlimited=7) == 7
    assert max_queued_bytes(2, unlimited=7) == 14
    assert max_queued_bytes(1000, unlimited=7) == 14 + BUDGET + 998 * MIN_QUOTA


@contextmanager
def connected(*, window: int = 4096) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection as the server has them, and its client, whose kernel accepts about `window` bytes unread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        set_send_buffer(listener, MIN_QUOTA)
        with socket.socket() as receiving:
            receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            receiving.connect(listener.getsockname())
            sending, _ = listener.accept()
            with sending:
                sending.setblocking(False)
                sending.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as asyncio does
                yield sending, receiving


def write(quota: SendBufferQuota, connection: socket.socket) -> int:
    """Writes one piece, as large as the quota allows. Returns the bytes that the socket took."""
    size = 0
    with suppress(BlockingIOError):
        if room := quota.writable(connection):
            size = connection.send(bytes(room))
    quota.update(connection)
    return size


def fill(quota: SendBufferQuota, connection: socket.socket) -> int:
    """Writes until the socket is not writable. Returns the bytes that it took."""
    size = 0
    while given := write(quota, connection):
        size += given
    return size


def take(connection: socket.socket, size: int) -> None:
    while size:
        size -= len(connection.recv(size))


def wait_writable(quota: SendBufferQuota, connection: socket.socket) -> None:
    if not quota.writable(connection):
        select.select([], [connection], [])
        quota.update(connection)


def is_writable(connection: socket.socket) -> bool:
    return select.select([], [connection], [], 0)[1] == [connection]


def test_client_that_reads_at_once_keeps_the_maximum_quota_and_holds_almost_nothing() -> None:
    budget = SendBufferBudget()
    quota = SendBufferQuota(budget)
    with connected(window=2 * MAX_QUOTA) as (sending, receiving):
        for _ in range(20):
            size = write(quota, sending)
            assert size > MAX_QUOTA / 2
            take(receiving, size)
            wait_writable(quota, sending)
        assert budget.free > BUDGET - MAX_QUOTA / 2


@pytest.mark.parametrize(("window", "most"), [(64 * 1024, MAX_QUOTA), (4096, buffer_holding(MAX_QUOTA))])
def test_client_that_stops_is_not_writable_and_queues_at_most_the_maximum_quota(window: int, most: int) -> None:
    """A small window makes short segments, for which the kernel needs more memory; all of it counts."""
    budget = SendBufferBudget()
    quota = SendBufferQuota(budget)
    with connected(window=window) as (sending, _):
        assert fill(quota, sending) > MAX_QUOTA / 2
        assert MAX_QUOTA / 2 < queued_bytes(sending) <= most + PACKETS
        assert BUDGET - most - PACKETS <= budget.free < BUDGET - MAX_QUOTA / 2 + MIN_QUOTA
        assert quota.writable(sending) == 0
        assert not is_writable(sending)


@pytest.mark.parametrize("size", [MIN_QUOTA, 3 * MIN_QUOTA, MAX_QUOTA])
def test_socket_takes_at_once_as_many_bytes_as_reported(size: int) -> None:
    budget = SendBufferBudget()
    budget.free = (size - MIN_QUOTA) * BUDGET_FRACTION
    quota = SendBufferQuota(budget)
    with connected(window=64 * 1024) as (sending, _):
        room = quota.writable(sending)
        assert room == size
        assert sending.send(bytes(room)) == room


def test_socket_is_writable_again_when_three_quarters_have_been_taken_and_epoll_reports_it() -> None:
    budget = SendBufferBudget()
    quota = SendBufferQuota(budget)
    with connected() as (sending, receiving):
        size = fill(quota, sending)
        held = queued_bytes(sending)
        taken = 0
        while not is_writable(sending):
            take(receiving, 4096)
            taken += 4096
        assert taken > size / 2
        assert queued_bytes(sending) < held / 2
        quota.update(sending)
        assert quota.writable(sending) > MAX_QUOTA / 2


def test_clients_that_stop_queue_at_most_the_budget_and_their_minimum_quotas() -> None:
    """The last of them still gets some bytes."""
    budget = SendBufferBudget()
    with ExitStack() as stack:
        crowd = [stack.enter_context(connected())[0] for _ in range(300)]
        quotas = [SendBufferQuota(budget) for _ in crowd]
        given = [fill(quota, connection) for quota, connection in zip(quotas, crowd, strict=True)]
        held = sum(map(queued_bytes, crowd))
        assert BUDGET / 2 < held <= BUDGET + len(crowd) * (MIN_QUOTA + PACKETS)
        assert budget.free >= -PACKETS
        assert given[0] > MAX_QUOTA / 2
        assert min(given) > 0
        assert given[-1] <= 2 * MIN_QUOTA
        for quota in quotas:
            quota.release()
        assert budget.free == BUDGET


def test_slow_clients_share_the_budget_almost_evenly() -> None:
    """A late client does not stay at the minimum quota: earlier ones get less with each write."""
    budget = SendBufferBudget()
    with ExitStack() as stack:
        crowd = [stack.enter_context(connected()) for _ in range(60)]
        quotas = [SendBufferQuota(budget) for _ in crowd]
        given = [0] * len(crowd)
        for _ in range(20):
            for number, (quota, (sending, receiving)) in enumerate(zip(quotas, crowd, strict=True)):
                while not is_writable(sending):
                    receiving.recv(4096)
                quota.update(sending)
                given[number] += fill(quota, sending)
        assert min(given) > max(given) / 2


def test_buffer_of_an_unlimited_download_grows_while_its_client_reads() -> None:
    """The kernel keeps the size of a buffer that was set, unless the lock on that size is lifted."""
    with connected(window=MAX_QUOTA * 16) as (sending, receiving):
        receiving.setblocking(False)
        _let_kernel_size_buffer(sending)
        initial = sending.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        piece = bytes(1024 * 1024)
        deadline = time.monotonic() + PATIENCE
        while sending.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= initial:
            assert time.monotonic() < deadline, "the send buffer has not grown"
            with suppress(BlockingIOError):
                sending.send(piece)
            with suppress(BlockingIOError):
                receiving.recv(len(piece))
