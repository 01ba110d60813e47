"""Room in sockets, and turns: who may go on goes on soon, and never so many at once that others wait for them."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise

import pytest
import pytest_asyncio

from streamer.http.net.readiness import (
    MIN_QUOTA,
    TURNS_PER_ROUND,
    WriteReadiness,
    buffer_writable_below,
    queued_bytes,
    set_send_buffer,
    writable_bytes,
)

PATIENCE = 30.0  # seconds


@pytest_asyncio.fixture
async def room() -> AsyncIterator[WriteReadiness]:
    room = WriteReadiness()
    yield room
    room.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection as the server has them, and its client, who takes little without reading."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        connection, _ = listener.accept()
        with connection:
            connection.setblocking(False)
            yield connection, client


def fill(connection: socket.socket) -> None:
    """With four times the least share; then epoll calls it writable at a half of that."""
    set_send_buffer(connection, 16 * MIN_QUOTA)
    while queued_bytes(connection) < 4 * MIN_QUOTA:
        connection.send(bytes(MIN_QUOTA))
    set_send_buffer(connection, buffer_writable_below(MIN_QUOTA // 2))


def drain(client: socket.socket, connection: socket.socket) -> None:
    while queued_bytes(connection):
        client.recv(MIN_QUOTA)


async def rounds(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_room_is_found_when_the_client_has_taken_enough_and_the_look_comes_first(
    room: WriteReadiness, pair: tuple[socket.socket, socket.socket]
) -> None:
    connection, client = pair
    fill(connection)
    seen: list[int] = []
    found = room.wait(connection, lambda it: seen.append(queued_bytes(it)))
    await asyncio.sleep(0.05)
    assert not found.done()
    assert seen == []
    drain(client, connection)
    await asyncio.wait_for(found, PATIENCE)
    assert len(seen) == 1
    assert seen[0] <= MIN_QUOTA // 2


async def test_who_gave_up_waiting_may_wait_again(
    room: WriteReadiness, pair: tuple[socket.socket, socket.socket]
) -> None:
    connection, client = pair
    fill(connection)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(room.wait(connection), 0.01)
    last = room.wait(connection)
    drain(client, connection)
    await asyncio.wait_for(last, PATIENCE)


async def test_nobody_looks_for_one_who_has_gone(
    room: WriteReadiness, pair: tuple[socket.socket, socket.socket]
) -> None:
    """What he held has been given back; counted again, it would be lost to the pool."""
    connection, client = pair
    fill(connection)
    seen: list[socket.socket] = []
    room.wait(connection, seen.append).cancel()
    drain(client, connection)
    await asyncio.sleep(0.05)
    assert seen == []


async def test_room_is_found_in_a_socket_that_was_shut_for_its_next_write_tells(
    room: WriteReadiness, pair: tuple[socket.socket, socket.socket]
) -> None:
    connection, _ = pair
    fill(connection)
    found = room.wait(connection)
    connection.shutdown(socket.SHUT_WR)
    await asyncio.wait_for(found, PATIENCE)
    with pytest.raises(BrokenPipeError):
        connection.send(b"more")


async def test_a_number_that_belongs_to_another_socket_by_now_is_waited_for_anew(room: WriteReadiness) -> None:
    for _ in range(3):
        one, other = socket.socketpair()
        with one, other:
            await asyncio.wait_for(room.wait(one), PATIENCE)


@pytest.mark.parametrize("cancelled", [0, 5 * TURNS_PER_ROUND])
async def test_only_so_many_go_on_in_a_round_in_the_order_in_which_they_came(
    room: WriteReadiness, cancelled: int
) -> None:
    """Those who have left take nobody's turn."""
    left = [room.next_turn() for _ in range(TURNS_PER_ROUND + cancelled)][TURNS_PER_ROUND:]
    for waiter in left:
        waiter.cancel()
    waiting = [room.next_turn() for _ in range(10 * TURNS_PER_ROUND)]
    let_go = []
    for _ in range(40):
        let_go.append(sum(waiter.done() for waiter in waiting))
        assert waiting[: let_go[-1]] == [waiter for waiter in waiting if waiter.done()]
        await rounds(1)
    assert let_go[-1] == len(waiting)
    assert max(after - before for before, after in pairwise(let_go)) <= TURNS_PER_ROUND


async def test_a_few_wait_for_no_turn(room: WriteReadiness) -> None:
    for _ in range(5):
        assert all(room.next_turn().done() for _ in range(TURNS_PER_ROUND))
        assert not room.next_turn().done()
        await rounds(3)


async def test_others_come_in_between_however_many_wait_for_their_turns(room: WriteReadiness) -> None:
    taken = [0] * (50 * TURNS_PER_ROUND)

    async def sends(number: int) -> None:
        while True:
            await room.next_turn()
            taken[number] += 1

    senders = [asyncio.create_task(sends(number)) for number in range(len(taken))]
    await rounds(3)
    for _ in range(200):
        before = sum(taken)
        await rounds(1)
        assert sum(taken) - before <= 2 * TURNS_PER_ROUND
    assert max(taken) - min(taken) <= TURNS_PER_ROUND + 2  # the first had all that there were while it was alone
    for sender in senders:
        sender.cancel()
    await asyncio.wait_for(asyncio.gather(*senders, return_exceptions=True), PATIENCE)


@pytest.mark.parametrize("size", [MIN_QUOTA, 16 * MIN_QUOTA, 96 * MIN_QUOTA])
def test_what_fits_in_a_socket_is_taken_at_once(size: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            connection.setblocking(False)
            set_send_buffer(connection, size)
            pieces = 0
            while room := writable_bytes(connection):
                assert connection.send(bytes(room)) == room
                pieces += 1
            assert pieces > 0
            assert size < buffer_writable_below(queued_bytes(connection))
