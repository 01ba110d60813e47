"""The pauses of a COPY: their length follows the size of the chunks."""

import pytest

from streamer.source.cursors.pacing import FULL, MAX_PAUSE, MIN_PAUSE, TARGET, Pacing

AT_ONCE = 0.0001  # seconds that a chunk was waited for
SOCKET = 200 * 1024  # bytes that a socket holds


@pytest.mark.parametrize("rate", [180e6, 250e6, 400e6])
@pytest.mark.parametrize("overhead", [0.00005, 0.0002])
def test_chunks_become_as_large_as_their_target(rate: float, overhead: float) -> None:
    """`rate` is in bytes a second, and `overhead` in seconds a chunk."""
    pacing, size = Pacing(), 9 * 1024.0
    for _ in range(10):
        size = min(SOCKET, rate * (pacing.pause(int(size), AT_ONCE) + overhead))
    assert 128 * 1024 <= size <= 192 * 1024


def test_a_pause_is_never_longer_than_the_maximum_however_slow_the_rows() -> None:
    pacing = Pacing()
    for _ in range(10):
        pause = pacing.pause(100, AT_ONCE)
    assert pause == MAX_PAUSE


def test_a_pause_is_never_shorter_than_the_minimum_until_the_socket_is_full() -> None:
    pacing = Pacing()
    assert [pacing.pause(FULL - 1, AT_ONCE) for _ in range(10)] == [MIN_PAUSE] * 10
    assert pacing.pause(FULL, AT_ONCE) == 0


def test_rows_that_fill_the_socket_while_a_chunk_is_passed_on_are_read_without_a_pause() -> None:
    pacing, size = Pacing(), 9 * 1024.0
    pauses = []
    for _ in range(10):
        pauses.append(pacing.pause(int(size), AT_ONCE))
        size = min(SOCKET, 2e9 * (pauses[-1] + 0.0002))
    assert pauses[1:] == [0] * 9


def test_there_is_no_pause_after_a_chunk_that_was_waited_for() -> None:
    pacing = Pacing()
    assert pacing.pause(100, MAX_PAUSE * 1.01) == 0
    assert pacing.pause(TARGET, AT_ONCE) == MIN_PAUSE


def test_a_chunk_that_was_waited_for_ends_a_long_pause() -> None:
    pacing = Pacing()
    assert [pacing.pause(100, AT_ONCE), pacing.pause(100, 1.0), pacing.pause(TARGET, AT_ONCE)] == [
        MAX_PAUSE,
        0,
        MIN_PAUSE,
    ]
