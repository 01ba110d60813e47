"""Places for downloads: never more than there are, never lost, and a crowd that holds no more than its pool."""

import asyncio
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from streamer.errors import Unavailable
from streamer.http.net.readiness import MIN_QUOTA, buffer_holding, queued_bytes, set_send_buffer
from streamer.http.net.send_buffers import (
    BUDGET,
    BUDGET_FRACTION,
    MAX_QUOTA,
    MAX_UNLIMITED,
    SEND_BUFFER_QUOTA,
    DownloadSlots,
    SendBufferBudget,
    SendBufferQuota,
    max_queued_bytes,
)

PACKETS = 8 * 1024  # bytes that the kernel may add to what it is given


def asked(connection: socket.socket | None = None) -> web.Request:
    """A request on that connection, or on one whose buffers nobody looks at."""
    transport = Mock(spec=asyncio.Transport)
    transport.get_extra_info.return_value = connection or Mock(spec=socket.socket, fileno=lambda: 0)
    return make_mocked_request("GET", "/", transport=transport)


@pytest.mark.parametrize("capacity", [1, 2, 1000])
def test_one_more_than_there_are_places_is_told_to_come_back(capacity: int) -> None:
    places = DownloadSlots(capacity)
    with ExitStack() as stack:
        crowd = asked()
        for _ in range(capacity):
            stack.enter_context(places.acquire(crowd))
        for _ in range(3):
            with pytest.raises(Unavailable, match="too many downloads") as refused, places.acquire(asked()):
                pytest.fail("there was no place left")
            assert refused.value.retry_after is not None
            assert refused.value.retry_after > 0


@pytest.mark.parametrize("leaving", [None, RuntimeError("broken"), KeyboardInterrupt()], ids=str)
def test_a_place_is_free_again_however_it_is_left(leaving: BaseException | None) -> None:
    places = DownloadSlots(1)
    for _ in range(3):
        with suppress(RuntimeError, KeyboardInterrupt), places.acquire(asked()):
            if leaving is not None:
                raise leaving


def test_a_refused_download_takes_no_place_with_it() -> None:
    places = DownloadSlots(1)
    with places.acquire(asked()):
        for _ in range(3):
            with pytest.raises(Unavailable), places.acquire(asked()):
                pass
    with places.acquire(asked()):
        pass


def test_the_first_are_left_to_the_kernel_and_the_rest_are_a_crowd() -> None:
    places = DownloadSlots(100)
    with ExitStack() as stack:
        requests = [asked() for _ in range(20)]
        for request in requests:
            stack.enter_context(places.acquire(request))
        crowded = [SEND_BUFFER_QUOTA in request for request in requests]
    assert crowded == [number > MAX_UNLIMITED for number in range(1, 21)]


def test_what_can_wait_is_what_the_first_have_and_the_pool_and_the_least_shares() -> None:
    assert max_queued_bytes(1, alone=7) == 7
    assert max_queued_bytes(2, alone=7) == 14
    assert max_queued_bytes(1000, alone=7) == 14 + BUDGET + 998 * MIN_QUOTA


@contextmanager
def connected(*, window: int = 4096) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection as the server has them, and its client, who takes about `window` bytes without reading."""
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


def give(share: SendBufferQuota, connection: socket.socket) -> int:
    """Bytes that the connection took, as a line would give them: one piece, for which there is room."""
    size = 0
    with suppress(BlockingIOError):
        if room := share.writable(connection):
            size = connection.send(bytes(room))
    share.update(connection)
    return size


def give_all(share: SendBufferQuota, connection: socket.socket) -> int:
    """Bytes that it took until it had room no more."""
    size = 0
    while given := give(share, connection):
        size += given
    return size


def take(connection: socket.socket, size: int) -> None:
    while size:
        size -= len(connection.recv(size))


def until_room(share: SendBufferQuota, connection: socket.socket) -> None:
    if not share.writable(connection):
        select.select([], [connection], [])
        share.update(connection)


def is_writable(connection: socket.socket) -> bool:
    return select.select([], [connection], [], 0)[1] == [connection]


def test_who_takes_at_once_is_given_the_most_again_and_again_and_holds_nothing() -> None:
    pool = SendBufferBudget()
    share = SendBufferQuota(pool)
    with connected(window=2 * MAX_QUOTA) as (sending, receiving):
        for _ in range(20):
            size = give(share, sending)
            assert size > MAX_QUOTA / 2
            take(receiving, size)
            until_room(share, sending)
        assert pool.free > BUDGET - MAX_QUOTA / 2


@pytest.mark.parametrize(("window", "most"), [(64 * 1024, MAX_QUOTA), (4096, buffer_holding(MAX_QUOTA))])
def test_who_stops_has_no_room_and_holds_no_more_than_the_most(window: int, most: int) -> None:
    """In short segments, as a small window makes them, the kernel needs more for the same bytes; all of it counts."""
    pool = SendBufferBudget()
    share = SendBufferQuota(pool)
    with connected(window=window) as (sending, _):
        assert give_all(share, sending) > MAX_QUOTA / 2
        assert MAX_QUOTA / 2 < queued_bytes(sending) <= most + PACKETS
        assert BUDGET - most - PACKETS <= pool.free < BUDGET - MAX_QUOTA / 2 + MIN_QUOTA
        assert share.writable(sending) == 0
        assert not is_writable(sending)


@pytest.mark.parametrize("size", [MIN_QUOTA, 3 * MIN_QUOTA, MAX_QUOTA])
def test_what_there_is_room_for_is_taken_at_once(size: int) -> None:
    pool = SendBufferBudget()
    pool.free = (size - MIN_QUOTA) * BUDGET_FRACTION
    share = SendBufferQuota(pool)
    with connected(window=64 * 1024) as (sending, _):
        room = share.writable(sending)
        assert room == size
        assert sending.send(bytes(room)) == room


def test_there_is_room_again_when_three_quarters_have_been_taken_and_epoll_says_so() -> None:
    pool = SendBufferBudget()
    share = SendBufferQuota(pool)
    with connected() as (sending, receiving):
        size = give_all(share, sending)
        held = queued_bytes(sending)
        taken = 0
        while not is_writable(sending):
            take(receiving, 4096)
            taken += 4096
        assert taken > size / 2
        assert queued_bytes(sending) < held / 2
        share.update(sending)
        assert share.writable(sending) > MAX_QUOTA / 2


def test_however_many_stop_they_hold_the_pool_and_their_least_shares() -> None:
    """And the last of them is still given something."""
    pool = SendBufferBudget()
    with ExitStack() as stack:
        crowd = [stack.enter_context(connected())[0] for _ in range(300)]
        shares = [SendBufferQuota(pool) for _ in crowd]
        given = [give_all(share, connection) for share, connection in zip(shares, crowd, strict=True)]
        held = sum(map(queued_bytes, crowd))
        assert BUDGET / 2 < held <= BUDGET + len(crowd) * (MIN_QUOTA + PACKETS)
        assert pool.free >= -PACKETS
        assert given[0] > MAX_QUOTA / 2
        assert min(given) > 0
        assert given[-1] <= 2 * MIN_QUOTA
        for share in shares:
            share.release()
        assert pool.free == BUDGET


def test_a_crowd_that_takes_slowly_shares_the_pool_almost_evenly() -> None:
    """Who comes late is not left with the least share for ever: the early ones get less, each time that they take."""
    pool = SendBufferBudget()
    with ExitStack() as stack:
        crowd = [stack.enter_context(connected()) for _ in range(60)]
        shares = [SendBufferQuota(pool) for _ in crowd]
        given = [0] * len(crowd)
        for _ in range(20):
            for number, (share, (sending, receiving)) in enumerate(zip(shares, crowd, strict=True)):
                while not is_writable(sending):
                    receiving.recv(4096)
                share.update(sending)
                given[number] += give_all(share, sending)
        assert min(given) > max(given) / 2


def test_a_place_in_a_crowd_gives_back_what_its_connection_held() -> None:
    places = DownloadSlots(1000)
    with ExitStack() as stack, connected() as (sending, _):
        for _ in range(MAX_UNLIMITED):
            stack.enter_context(places.acquire(asked()))
        before = places.free_budget
        request = asked(sending)
        with places.acquire(request):
            give_all(request[SEND_BUFFER_QUOTA], sending)
            assert places.free_budget < before
        assert places.free_budget == before
        assert buffer_of(sending) == MIN_QUOTA


def test_the_first_download_may_fill_its_socket_and_its_connection_is_small_again_afterwards() -> None:
    places = DownloadSlots(1000)
    with connected(window=1 << 20) as (sending, receiving):
        receiving.setblocking(False)
        with places.acquire(asked(sending)):
            sent = 0
            while sent < 16 << 20:  # the kernel gives more to a client that takes it
                sent += sending.send(bytes(1 << 18))
                with suppress(BlockingIOError):
                    while receiving.recv(1 << 20):
                        pass
            assert buffer_of(sending) > 4 * MIN_QUOTA
        assert buffer_of(sending) == MIN_QUOTA


def buffer_of(connection: socket.socket) -> int:
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
