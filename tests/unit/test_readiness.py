"""Write readiness: senders continue soon after their client has read, and never too many in one round."""

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
from tests.polling import until

PATIENCE = 30.0  # seconds


@pytest_asyncio.fixture
async def readiness() -> AsyncIterator[WriteReadiness]:
    readiness = WriteReadiness()
    yield readiness
    readiness.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection as the server has them, and its client, whose kernel accepts little unread."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        connection, _ = listener.accept()
        with connection:
            connection.setblocking(False)
            yield connection, client


def fill(connection: socket.socket) -> None:
    """Queues four minimum quotas; epoll then calls the socket writable at half a quota."""
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


async def test_wait_ends_when_the_client_has_taken_enough_and_callback_runs_first(
    readiness: WriteReadiness, pair: tuple[socket.socket, socket.socket]
) -> None:
    connection, client = pair
    fill(connection)
    seen: list[int] = []
    found = readiness.wait(connection, lambda it: seen.append(queued_bytes(it)))
    await rounds(20)
    assert not found.done()
    assert seen == []
    drain(client, connection)
    await asyncio.wait_for(found, PATIENCE)
    assert len(seen) == 1
    assert seen[0] <= MIN_QUOTA // 2


async def test_wait_can_be_repeated_after_it_was_cancelled(
    readiness: WriteReadiness, pair: tuple[socket.socket, socket.socket]
) -> None:
    connection, client = pair
    fill(connection)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(readiness.wait(connection), 0.01)
    last = readiness.wait(connection)
    drain(client, connection)
    await asyncio.wait_for(last, PATIENCE)


async def test_callback_of_a_cancelled_wait_is_not_called(
    readiness: WriteReadiness, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Its quota has been released; bytes counted after that would be lost to the budget."""
    connection, client = pair
    fill(connection)
    seen: list[socket.socket] = []
    readiness.wait(connection, seen.append).cancel()
    drain(client, connection)
    await until(lambda: not readiness._waiters, "the socket has room again")
    assert seen == []


async def test_wait_ends_when_the_socket_was_shut_down_so_that_the_next_write_fails(
    readiness: WriteReadiness, pair: tuple[socket.socket, socket.socket]
) -> None:
    connection, _ = pair
    fill(connection)
    found = readiness.wait(connection)
    connection.shutdown(socket.SHUT_WR)
    await asyncio.wait_for(found, PATIENCE)
    with pytest.raises(BrokenPipeError):
        connection.send(b"more")


async def test_descriptor_reused_by_another_socket_can_be_waited_for(readiness: WriteReadiness) -> None:
    for _ in range(3):
        one, other = socket.socketpair()
        with one, other:
            await asyncio.wait_for(readiness.wait(one), PATIENCE)


@pytest.mark.parametrize("cancelled", [0, 5 * TURNS_PER_ROUND])
async def test_turns_per_round_are_limited_and_granted_in_order(readiness: WriteReadiness, cancelled: int) -> None:
    """A cancelled waiter uses up no turn."""
    left = [readiness.next_turn() for _ in range(TURNS_PER_ROUND + cancelled)][TURNS_PER_ROUND:]
    for waiter in left:
        waiter.cancel()
    waiting = [readiness.next_turn() for _ in range(10 * TURNS_PER_ROUND)]
    let_go = []
    for _ in range(40):
        let_go.append(sum(waiter.done() for waiter in waiting))
        assert waiting[: let_go[-1]] == [waiter for waiter in waiting if waiter.done()]
        await rounds(1)
    assert let_go[-1] == len(waiting)
    assert max(after - before for before, after in pairwise(let_go)) <= TURNS_PER_ROUND


async def test_few_senders_get_their_turn_at_once(readiness: WriteReadiness) -> None:
    for _ in range(5):
        assert all(readiness.next_turn().done() for _ in range(TURNS_PER_ROUND))
        assert not readiness.next_turn().done()
        await rounds(3)


async def test_other_tasks_run_between_turns_however_many_wait(readiness: WriteReadiness) -> None:
    taken = [0] * (50 * TURNS_PER_ROUND)

    async def sends(number: int) -> None:
        while True:
            await readiness.next_turn()
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
def test_socket_takes_at_once_as_many_bytes_as_writable_bytes_reports(size: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            connection.setblocking(False)
            set_send_buffer(connection, size)
            pieces = 0
            while readiness := writable_bytes(connection):
                assert connection.send(bytes(readiness)) == readiness
                pieces += 1
            assert pieces > 0
            assert size < buffer_writable_below(queued_bytes(connection))
