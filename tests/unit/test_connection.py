"""The accounting of request heads, alone. The listener's integration tests cover the connection itself."""

from hypothesis import given
from hypothesis import strategies as st

from streamer.http.net.connection import (
    HEAD_TOO_LARGE,
    TOO_MANY_CONNECTIONS,
    ConnectionLimits,
    OpenConnections,
    RequestHeads,
)
from streamer.http.net.send_timeout import SendTimeout


def shared() -> OpenConnections:
    return OpenConnections(ConnectionLimits(), SendTimeout(60.0))


def test_head_counts_from_its_first_byte_until_its_request_is_answered() -> None:
    connections = shared()
    heads = RequestHeads(connections)
    assert not heads.reading
    heads.receive(10)
    heads.receive(20)
    assert heads.reading
    heads.complete(1)
    assert not heads.reading
    heads.release_answered(1)
    assert (heads.size, connections.head_bytes) == (30, 30)
    heads.release_answered(0)
    assert (heads.size, connections.head_bytes) == (0, 0)


def test_heads_received_together_count_until_the_first_of_their_requests_is_answered() -> None:
    heads = RequestHeads(shared())
    heads.receive(100)
    heads.complete(3)
    heads.release_answered(3)
    assert heads.size == 100
    heads.release_answered(2)
    assert heads.size == 0


def test_lost_connection_releases_its_heads_and_no_others() -> None:
    connections = shared()
    lost, other = RequestHeads(connections), RequestHeads(connections)
    other.receive(1)
    lost.receive(10)
    lost.complete(1)
    lost.receive(20)
    lost.release()
    assert (lost.size, connections.head_bytes) == (0, 1)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 3), st.integers(0, 3))))
def test_sum_of_all_connections_is_never_negative_and_ends_at_zero(steps: list[tuple[int, int, int]]) -> None:
    connections = shared()
    heads = [RequestHeads(connections), RequestHeads(connections)]
    for index, (size, requests, unanswered) in enumerate(steps):
        each = heads[index % 2]
        each.release_answered(unanswered)
        each.receive(size)
        if requests:
            each.complete(requests)
        assert connections.head_bytes == sum(connection.size for connection in heads) >= 0
    for each in heads:
        each.release()
    assert connections.head_bytes == 0


def test_responses_before_a_request_close_the_connection() -> None:
    for response, status in ((TOO_MANY_CONNECTIONS, b"HTTP/1.1 503 "), (HEAD_TOO_LARGE, b"HTTP/1.1 431 ")):
        head, _, body = response.partition(b"\r\n\r\n")
        assert head.startswith(status)
        assert b"\r\nConnection: close\r\n" in head + b"\r\n"
        assert f"\r\nContent-Length: {len(body)}\r\n".encode() in head
