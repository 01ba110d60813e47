"""The framing of COPY: its rows by the bytes of whole messages, wherever the data of a connection is cut."""

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.errors import ExportFailure
from streamer.postgres.copy_framing import COPY_DATA, CopyFraming, last_row

KB, MB = 1024, 1024 * 1024
LENGTH_LIKE_A_BOUNDARY = 0x000A6400 - 4  # bytes of a row whose length has the bytes of a line feed and a new message


def message(kind: bytes, content: bytes) -> bytes:
    return kind + (len(content) + 4).to_bytes(4) + content


def row(content: bytes) -> bytes:
    return message(b"d", content)


BEGIN = message(b"H", b"\0\0\2\0\0\0\0")
STATUS = message(b"S", b"TimeZone\0UTC\0")
NOTICE = message(b"N", b"SINFO\0Mrow 1\nread\0\0")


def end(rows: int) -> list[bytes]:
    return [message(b"c", b""), message(b"C", b"COPY %d\0" % rows), message(b"Z", b"T")]


class Driver:
    """Delivers as asyncpg does: every whole row that has arrived, unless a message of another type is behind it.

    Rows with one behind them are delivered at the end, or dropped if more rows come before.
    """

    def __init__(self) -> None:
        self.framing = CopyFraming()
        self.delivered: list[tuple[int, int]] = []  # rows in truth, and by the framing
        self._buffer = b""
        self._result: list[bytes] = []

    def receive(self, data: bytes) -> None:
        self.framing.receive(data)
        self._buffer += data
        messages, self._buffer = split(self._buffer)
        for place, (kind, content) in enumerate(messages):
            if kind == COPY_DATA:
                if place == 0 or messages[place - 1][0] != COPY_DATA:
                    self._result = []
                self._result.append(content)
            if kind == ord("Z") or (kind == COPY_DATA and place == len(messages) - 1):
                self._deliver()

    def _deliver(self) -> None:
        chunk, count, self._result = b"".join(self._result), len(self._result), []
        if chunk:
            self.delivered.append((count, self.framing.deliver(chunk)))


def split(buffer: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """The whole messages, and the rest."""
    messages, at = [], 0
    while at + 5 <= len(buffer) and (stop := at + 1 + int.from_bytes(buffer[at + 1 : at + 5])) <= len(buffer):
        messages.append((buffer[at], buffer[at + 5 : stop]))
        at = stop
    return messages, buffer[at:]


def received(pieces: Iterable[bytes]) -> Driver:
    driver = Driver()
    for piece in pieces:
        driver.receive(piece)
    return driver


def cut(stream: bytes, places: Iterable[int]) -> Iterator[bytes]:
    start = 0
    for place in sorted(places):
        yield stream[start:place]
        start = place
    yield stream[start:]


def assert_exact(driver: Driver, rows: int) -> None:
    assert [told for _, told in driver.delivered] == [truth for truth, _ in driver.delivered]
    assert driver.framing.rows == rows
    driver.framing.finish(rows)


ROWS = [b"1,one\n", b"\n", b'2,"a\nd"\n', b"d\n", b'"\nd\n\nd"\n', b"dddd\n", b"3," + b"x" * 300 + b"\n", b"end\n"]
WHOLE = b"".join([BEGIN, *map(row, ROWS), *end(len(ROWS))])


def test_rows_that_arrive_at_once_are_counted() -> None:
    assert_exact(received([WHOLE]), len(ROWS))


def test_rows_that_arrive_byte_by_byte_are_counted() -> None:
    assert_exact(received(bytes([byte]) for byte in WHOLE), len(ROWS))


def test_rows_that_arrive_in_two_pieces_are_counted_wherever_they_are_cut() -> None:
    for place in range(len(WHOLE) + 1):
        assert_exact(received(cut(WHOLE, [place])), len(ROWS))


def test_rows_that_arrive_in_three_pieces_are_counted_wherever_they_are_cut() -> None:
    few = b"".join([BEGIN, *map(row, ROWS[:5]), *end(5)])
    for first in range(len(few)):
        for second in range(first, len(few)):
            assert_exact(received(cut(few, [first, second])), 5)


def test_a_copy_without_rows_has_none() -> None:
    assert_exact(received([b"".join([BEGIN, *end(0)])]), 0)


sizes = st.one_of(st.integers(0, 300), st.sampled_from([0x64 - 5, 0xFB, 0xFC, 0x6400 - 5, 0x640A - 5]))
contents = st.builds(
    lambda size, filling: (filling * size)[:size] + b"\n", sizes, st.sampled_from([b"x", b"d", b"\nd"])
)


@given(rows=st.lists(contents, max_size=12), places=st.lists(st.floats(0, 1), max_size=12))
def test_rows_of_any_size_are_counted_wherever_they_are_cut(rows: list[bytes], places: list[float]) -> None:
    stream = b"".join([BEGIN, *map(row, rows), *end(len(rows))])
    assert_exact(received(cut(stream, (round(place * len(stream)) for place in places))), len(rows))


@pytest.mark.parametrize("size", [LENGTH_LIKE_A_BOUNDARY, 1_500_000, 16 * MB - 5, 16 * MB, 17 * MB])
def test_large_rows_among_small_ones_are_counted(size: int) -> None:
    rows = [*ROWS, b"x" * (size - 1) + b"\n", *ROWS]
    stream = b"".join([BEGIN, *map(row, rows), *end(len(rows))])
    for piece in (256 * KB - 7, 1 * MB + 3):
        assert_exact(received(cut(stream, range(piece, len(stream), piece))), len(rows))


def test_the_length_of_a_row_is_not_taken_for_the_beginning_of_another() -> None:
    header = row(b"x" * (LENGTH_LIKE_A_BOUNDARY - 1) + b"\n")[:500]
    assert b"\nd\0" in header
    assert last_row(row(b"1\n") + header) == len(row(b"1\n"))
    assert last_row(header) == 0


def test_messages_before_and_after_the_rows_count_for_nothing() -> None:
    stream = [STATUS, NOTICE, BEGIN, *map(row, ROWS), *end(len(ROWS))]
    whole = b"".join([*stream[:-1], STATUS, NOTICE, stream[-1]])
    for place in range(len(whole) + 1):
        assert_exact(received(cut(whole, [place])), len(ROWS))


def test_a_message_between_rows_that_lost_none_counts_for_nothing() -> None:
    assert_exact(received([BEGIN + row(b"1\n"), STATUS + row(b"2\n") + row(b"3\n"), b"".join(end(3))]), 3)


@pytest.mark.parametrize("between", [STATUS, NOTICE])
@pytest.mark.parametrize("after", range(1, len(ROWS)))
def test_rows_dropped_for_a_message_between_them_are_missing(after: int, between: bytes) -> None:
    sent = [BEGIN, *map(row, ROWS[:after]), between, *map(row, ROWS[after:]), *end(len(ROWS))]
    assert_missing([b"".join(sent)])
    assert_missing([b"".join(sent[: after + 2]), b"".join(sent[after + 2 :])])


@pytest.mark.parametrize("place", range(1, len(ROWS) + 1))
def test_a_row_that_was_not_sent_is_missing(place: int) -> None:
    sent = [BEGIN, *map(row, ROWS), *end(len(ROWS))]
    del sent[place]
    assert_missing([b"".join(sent)])


def assert_missing(pieces: Iterable[bytes]) -> None:
    with pytest.raises(ExportFailure, match="did not arrive"):
        received(pieces).framing.finish(len(ROWS))
