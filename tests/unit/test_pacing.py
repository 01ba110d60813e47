"""The pauses of a COPY: their length follows the size of the chunks."""

import pytest

from streamer.source.cursors.pacing import MAX_PAUSE, MIN_PAUSE, TARGET, Pacing

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


def test_a_pause_is_never_shorter_than_the_minimum_however_fast_the_rows() -> None:
    pacing = Pacing()
    for _ in range(10):
        pause = pacing.pause(100 * TARGET, AT_ONCE)
    assert pause == MIN_PAUSE


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
