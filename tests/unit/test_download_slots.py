"""Download slots: never more than the capacity, none lost, and send buffers as each slot should have them."""

import asyncio
import socket
from contextlib import ExitStack, suppress
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from streamer.errors import Unavailable
from streamer.http.net.download_slots import DownloadSlots
from streamer.http.net.readiness import MIN_QUOTA
from streamer.http.net.send_buffers import MAX_UNLIMITED, SEND_BUFFER_QUOTA
from tests.unit.test_send_buffers import connected, fill


def asked(connection: socket.socket | None = None) -> web.Request:
    """A request on that connection, or on one that is no socket."""
    transport = Mock(spec=asyncio.Transport)
    transport.get_extra_info.return_value = connection or Mock(spec=socket.socket, fileno=lambda: 0)
    return make_mocked_request("GET", "/", transport=transport)


@pytest.mark.parametrize("capacity", [1, 2, 1000])
def test_download_beyond_the_capacity_gets_503_with_retry_after(capacity: int) -> None:
    slots = DownloadSlots(capacity)
    with ExitStack() as stack:
        request = asked()
        for _ in range(capacity):
            stack.enter_context(slots.acquire(request))
        for _ in range(3):
            with pytest.raises(Unavailable, match="too many downloads") as refused, slots.acquire(asked()):
                pytest.fail("there was no free slot")
            assert refused.value.retry_after is not None
            assert refused.value.retry_after > 0


@pytest.mark.parametrize("leaving", [None, RuntimeError("broken"), KeyboardInterrupt()], ids=str)
def test_slot_is_free_again_however_its_context_is_left(leaving: BaseException | None) -> None:
    slots = DownloadSlots(1)
    for _ in range(3):
        with suppress(RuntimeError, KeyboardInterrupt), slots.acquire(asked()):
            if leaving is not None:
                raise leaving


def test_refused_download_takes_no_slot() -> None:
    slots = DownloadSlots(1)
    with slots.acquire(asked()):
        for _ in range(3):
            with pytest.raises(Unavailable), slots.acquire(asked()):
                pass
    with slots.acquire(asked()):
        pass


def test_first_downloads_have_no_quota_and_all_others_have_one() -> None:
    slots = DownloadSlots(100)
    with ExitStack() as stack:
        requests = [asked() for _ in range(20)]
        for request in requests:
            stack.enter_context(slots.acquire(request))
        limited = [SEND_BUFFER_QUOTA in request for request in requests]
    assert limited == [number > MAX_UNLIMITED for number in range(1, 21)]


def test_slot_returns_the_budget_that_its_connection_held() -> None:
    slots = DownloadSlots(1000)
    with ExitStack() as stack, connected() as (sending, _):
        for _ in range(MAX_UNLIMITED):
            stack.enter_context(slots.acquire(asked()))
        before = slots.free_budget
        request = asked(sending)
        with slots.acquire(request):
            fill(request[SEND_BUFFER_QUOTA], sending)
            assert slots.free_budget < before
        assert slots.free_budget == before
        assert buffer_of(sending) == MIN_QUOTA


def test_buffer_without_quota_grows_and_is_small_again_afterwards() -> None:
    slots = DownloadSlots(1000)
    with connected(window=1 << 20) as (sending, receiving):
        receiving.setblocking(False)
        with slots.acquire(asked(sending)):
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
