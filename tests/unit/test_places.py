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
from streamer.http.net.places import ALONE, MOST_SHARE, PART, POOL, SHARE, Places, Pool, Share, most_waiting
from streamer.http.net.room import LEAST_SHARE, buffer_for, held_for, limit_waiting

PACKETS = 8 * 1024  # bytes that the kernel may add to what it is given


def asked(connection: socket.socket | None = None) -> web.Request:
    """A request on that connection, or on one whose buffers nobody looks at."""
    transport = Mock(spec=asyncio.Transport)
    transport.get_extra_info.return_value = connection or Mock(spec=socket.socket, fileno=lambda: 0)
    return make_mocked_request("GET", "/", transport=transport)


@pytest.mark.parametrize("capacity", [1, 2, 1000])
def test_one_more_than_there_are_places_is_told_to_come_back(capacity: int) -> None:
    places = Places(capacity)
    with ExitStack() as stack:
        crowd = asked()
        for _ in range(capacity):
            stack.enter_context(places.one(crowd))
        for _ in range(3):
            with pytest.raises(Unavailable, match="too many downloads") as refused, places.one(asked()):
                pytest.fail("there was no place left")
            assert refused.value.retry_after is not None
            assert refused.value.retry_after > 0


@pytest.mark.parametrize("leaving", [None, RuntimeError("broken"), KeyboardInterrupt()], ids=str)
def test_a_place_is_free_again_however_it_is_left(leaving: BaseException | None) -> None:
    places = Places(1)
    for _ in range(3):
        with suppress(RuntimeError, KeyboardInterrupt), places.one(asked()):
            if leaving is not None:
                raise leaving


def test_a_refused_download_takes_no_place_with_it() -> None:
    places = Places(1)
    with places.one(asked()):
        for _ in range(3):
            with pytest.raises(Unavailable), places.one(asked()):
                pass
    with places.one(asked()):
        pass


def test_the_first_are_left_to_the_kernel_and_the_rest_are_a_crowd() -> None:
    places = Places(100)
    with ExitStack() as stack:
        requests = [asked() for _ in range(20)]
        for request in requests:
            stack.enter_context(places.one(request))
        crowded = [SHARE in request for request in requests]
    assert crowded == [number > ALONE for number in range(1, 21)]


def test_what_can_wait_is_what_the_first_have_and_the_pool_and_the_least_shares() -> None:
    assert most_waiting(1, alone=7) == 7
    assert most_waiting(2, alone=7) == 14
    assert most_waiting(1000, alone=7) == 14 + POOL + 998 * LEAST_SHARE


@contextmanager
def connected(*, window: int = 4096) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection as the server has them, and its client, who takes about `window` bytes without reading."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        limit_waiting(listener, LEAST_SHARE)
        with socket.socket() as receiving:
            receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            receiving.connect(listener.getsockname())
            sending, _ = listener.accept()
            with sending:
                sending.setblocking(False)
                sending.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as asyncio does
                yield sending, receiving


def give(share: Share, connection: socket.socket) -> int:
    """Bytes that the connection took, as a line would give them: one piece, for which there is room."""
    size = 0
    with suppress(BlockingIOError):
        if room := share.room(connection):
            size = connection.send(bytes(room))
    share.look(connection)
    return size


def give_all(share: Share, connection: socket.socket) -> int:
    """Bytes that it took until it had room no more."""
    size = 0
    while given := give(share, connection):
        size += given
    return size


def take(connection: socket.socket, size: int) -> None:
    while size:
        size -= len(connection.recv(size))


def until_room(share: Share, connection: socket.socket) -> None:
    if not share.room(connection):
        select.select([], [connection], [])
        share.look(connection)


def is_writable(connection: socket.socket) -> bool:
    return select.select([], [connection], [], 0)[1] == [connection]


def test_who_takes_at_once_is_given_the_most_again_and_again_and_holds_nothing() -> None:
    pool = Pool()
    share = Share(pool)
    with connected(window=2 * MOST_SHARE) as (sending, receiving):
        for _ in range(20):
            size = give(share, sending)
            assert size > MOST_SHARE / 2
            take(receiving, size)
            until_room(share, sending)
        assert pool.free > POOL - MOST_SHARE / 2


@pytest.mark.parametrize(("window", "most"), [(64 * 1024, MOST_SHARE), (4096, buffer_for(MOST_SHARE))])
def test_who_stops_has_no_room_and_holds_no_more_than_the_most(window: int, most: int) -> None:
    """In short segments, as a small window makes them, the kernel needs more for the same bytes; all of it counts."""
    pool = Pool()
    share = Share(pool)
    with connected(window=window) as (sending, _):
        assert give_all(share, sending) > MOST_SHARE / 2
        assert MOST_SHARE / 2 < held_for(sending) <= most + PACKETS
        assert POOL - most - PACKETS <= pool.free < POOL - MOST_SHARE / 2 + LEAST_SHARE
        assert share.room(sending) == 0
        assert not is_writable(sending)


@pytest.mark.parametrize("size", [LEAST_SHARE, 3 * LEAST_SHARE, MOST_SHARE])
def test_what_there_is_room_for_is_taken_at_once(size: int) -> None:
    pool = Pool()
    pool.free = (size - LEAST_SHARE) * PART
    share = Share(pool)
    with connected(window=64 * 1024) as (sending, _):
        room = share.room(sending)
        assert room == size
        assert sending.send(bytes(room)) == room


def test_there_is_room_again_when_three_quarters_have_been_taken_and_epoll_says_so() -> None:
    pool = Pool()
    share = Share(pool)
    with connected() as (sending, receiving):
        size = give_all(share, sending)
        held = held_for(sending)
        taken = 0
        while not is_writable(sending):
            take(receiving, 4096)
            taken += 4096
        assert taken > size / 2
        assert held_for(sending) < held / 2
        share.look(sending)
        assert share.room(sending) > MOST_SHARE / 2


def test_however_many_stop_they_hold_the_pool_and_their_least_shares() -> None:
    """And the last of them is still given something."""
    pool = Pool()
    with ExitStack() as stack:
        crowd = [stack.enter_context(connected())[0] for _ in range(300)]
        shares = [Share(pool) for _ in crowd]
        given = [give_all(share, connection) for share, connection in zip(shares, crowd, strict=True)]
        held = sum(map(held_for, crowd))
        assert POOL / 2 < held <= POOL + len(crowd) * (LEAST_SHARE + PACKETS)
        assert pool.free >= -PACKETS
        assert given[0] > MOST_SHARE / 2
        assert min(given) > 0
        assert given[-1] <= 2 * LEAST_SHARE
        for share in shares:
            share.release()
        assert pool.free == POOL


def test_a_crowd_that_takes_slowly_shares_the_pool_almost_evenly() -> None:
    """Who comes late is not left with the least share for ever: the early ones get less, each time that they take."""
    pool = Pool()
    with ExitStack() as stack:
        crowd = [stack.enter_context(connected()) for _ in range(60)]
        shares = [Share(pool) for _ in crowd]
        given = [0] * len(crowd)
        for _ in range(20):
            for number, (share, (sending, receiving)) in enumerate(zip(shares, crowd, strict=True)):
                while not is_writable(sending):
                    receiving.recv(4096)
                share.look(sending)
                given[number] += give_all(share, sending)
        assert min(given) > max(given) / 2


def test_a_place_in_a_crowd_gives_back_what_its_connection_held() -> None:
    places = Places(1000)
    with ExitStack() as stack, connected() as (sending, _):
        for _ in range(ALONE):
            stack.enter_context(places.one(asked()))
        before = places.free
        request = asked(sending)
        with places.one(request):
            give_all(request[SHARE], sending)
            assert places.free < before
        assert places.free == before
        assert buffer_of(sending) == LEAST_SHARE


def test_the_first_download_may_fill_its_socket_and_its_connection_is_small_again_afterwards() -> None:
    places = Places(1000)
    with connected(window=1 << 20) as (sending, receiving):
        receiving.setblocking(False)
        with places.one(asked(sending)):
            sent = 0
            while sent < 16 << 20:  # the kernel gives more to a client that takes it
                sent += sending.send(bytes(1 << 18))
                with suppress(BlockingIOError):
                    while receiving.recv(1 << 20):
                        pass
            assert buffer_of(sending) > 4 * LEAST_SHARE
        assert buffer_of(sending) == LEAST_SHARE


def buffer_of(connection: socket.socket) -> int:
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
