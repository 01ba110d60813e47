"""Places for downloads: never more than there are, never lost, and for a crowd a send buffer that stays small."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from streamer.errors import Unavailable
from streamer.http.places import LEAST_SHARE, POOL, ROOMY, SHARE, Places, limit_waiting, most_waiting

MOST_TAKEN = 4  # times its share: what the kernel's doubling and the size of its packets may add


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
        crowded = [request[SHARE] < ROOMY for request in requests]
    assert crowded == [number > POOL // ROOMY for number in range(1, 21)]


def test_what_can_wait_is_within_a_few_megabytes_for_the_largest_crowd() -> None:
    assert most_waiting(1000, roomy=0) < 8 * POOL + 1000 * LEAST_SHARE
    assert most_waiting(2, roomy=7) == 14


@contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with socket.create_connection(listener.getsockname()) as sending:
            receiving, _ = listener.accept()
            with receiving:
                yield sending, receiving


def test_a_socket_in_a_crowd_takes_about_its_share_for_a_client_that_reads_nothing() -> None:
    places = Places(1000)
    with ExitStack() as stack, connected() as (sending, _):
        crowd = asked()
        for _ in range(999):
            stack.enter_context(places.one(crowd))
        stack.enter_context(places.one(asked(sending)))
        assert 0 < taken(sending) <= MOST_TAKEN * LEAST_SHARE


def test_the_first_download_may_fill_its_socket_and_its_connection_is_small_again_afterwards() -> None:
    places = Places(1000)
    with connected() as (sending, receiving):
        limit_waiting(sending, LEAST_SHARE)
        with places.one(asked(sending)):
            receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            sent = 0
            while sent < 16 << 20:  # the kernel gives more to a client that takes it
                sent += sending.send(bytes(1 << 18))
                while len(receiving.recv(1 << 20)) == 1 << 20:
                    pass
            assert buffer_of(sending) > 4 * LEAST_SHARE
        assert buffer_of(sending) == LEAST_SHARE


def buffer_of(connection: socket.socket) -> int:
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def taken(connection: socket.socket) -> int:
    """Bytes that the kernel takes for a client that reads nothing."""
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as asyncio does
    size = 0
    with suppress(BlockingIOError):
        while size < 16 * 1024 * 1024:
            size += connection.send(bytes(1024))
    return size
