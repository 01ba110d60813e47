"""Compression: what it makes depends on the bytes, the coder and the offsets of the flushes alone."""

import random
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import thread_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.coding import COMPRESSED, Coding
from streamer.formats.coders import coder
from streamer.formats.compression import CUT, Compression, Cut, pack_offsets, unpack_offsets
from tests import seeds

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GZIP_FORMAT = 16 + 15
MANY = 200_000
USERS = b"".join(seeds.csv_bytes(seeds.rows(10_000)))

both = pytest.mark.parametrize("coding", COMPRESSED)


def decoder(coding: Coding) -> Callable[[bytes], bytes]:
    if coding is Coding.GZIP:
        return zlib.decompressobj(GZIP_FORMAT).decompress
    return zstd.ZstdDecompressor().decompress


@dataclass(frozen=True)
class Arrival:
    """Identity has `frontier` bytes, and the reader has caught up or not."""

    frontier: int
    flush: bool


@dataclass
class Recorder:
    """A coder that makes nothing, and keeps what it was asked for."""

    calls: list[int | str] = field(default_factory=list)
    name: str = "recorder"

    def compress(self, piece: bytes | memoryview) -> bytes:
        self.calls.append(len(piece))
        return b""

    def flush(self) -> bytes:
        self.calls.append("flush")
        return b""

    def end(self) -> bytes:
        self.calls.append("end")
        return b""


def cuts(compression: Compression, frontier: int, *, ended: bool = False, flush: bool = False) -> Iterator[Cut]:
    """Compresses zeros as far as it goes."""
    while cut := compression.next_cut(frontier, ended=ended, flush=flush):
        yield cut
        compression.take(bytes(cut.stop - compression.position), cut)


def new(flushes: tuple[int, ...] = ()) -> Compression:
    return Compression(Recorder(), flushes)


# The cuts


@pytest.mark.parametrize(
    ("frontier", "expected"),
    [
        (0, []),
        (1, []),
        (CUT - 1, []),
        (CUT, [Cut(CUT, False)]),
        (CUT + 1, [Cut(CUT, False)]),
        (3 * CUT - 1, [Cut(CUT, False), Cut(2 * CUT, False)]),
    ],
)
def test_identity_that_grows_is_cut_at_multiples_alone(frontier: int, expected: list[Cut]) -> None:
    assert list(cuts(new(), frontier)) == expected


@pytest.mark.parametrize(
    ("frontier", "expected"),
    [
        (0, []),
        (1, [Cut(1, False)]),
        (CUT, [Cut(CUT, False)]),
        (CUT + 1, [Cut(CUT, False), Cut(CUT + 1, False)]),
    ],
)
@pytest.mark.parametrize("flush", [False, True])
def test_end_of_identity_is_a_cut_without_a_flush(frontier: int, expected: list[Cut], flush: bool) -> None:
    compression = new()
    assert list(cuts(compression, frontier, ended=True, flush=flush)) == expected
    assert compression.position == frontier
    assert compression.flushes == ()


@pytest.mark.parametrize(
    ("frontier", "expected"),
    [
        (0, []),
        (1, [Cut(1, True)]),
        (CUT, [Cut(CUT, True)]),
        (CUT + 1, [Cut(CUT, False), Cut(CUT + 1, True)]),
        (2 * CUT, [Cut(CUT, False), Cut(2 * CUT, True)]),
    ],
)
def test_flush_is_at_the_frontier_alone(frontier: int, expected: list[Cut]) -> None:
    compression = new()
    assert list(cuts(compression, frontier, flush=True)) == expected
    assert compression.flushes == ((frontier,) if frontier else ())


def test_cut_after_a_flush_ends_at_the_next_multiple() -> None:
    compression = new()
    assert list(cuts(compression, 100, flush=True)) == [Cut(100, True)]
    assert list(cuts(compression, 2 * CUT)) == [Cut(CUT, False), Cut(2 * CUT, False)]


def test_cut_that_was_not_flushed_is_flushed_later_without_new_bytes() -> None:
    compression = new()
    assert list(cuts(compression, CUT)) == [Cut(CUT, False)]
    assert list(cuts(compression, CUT, flush=True)) == [Cut(CUT, True)]
    assert list(cuts(compression, CUT, flush=True)) == []
    assert compression.flushes == (CUT,)


def test_flushes_are_repeated_before_there_are_new_ones() -> None:
    compression = new((10, 20, CUT, CUT + 5))
    assert list(cuts(compression, 15, flush=True)) == [Cut(10, True)]
    assert pack_offsets(compression.flushes) == pack_offsets([10])
    assert list(cuts(compression, CUT + 7, flush=True)) == [
        Cut(20, True),
        Cut(CUT, True),
        Cut(CUT + 5, True),
        Cut(CUT + 7, True),
    ]
    assert compression.flushes == (10, 20, CUT, CUT + 5, CUT + 7)


def test_multiples_before_a_repeated_flush_are_cuts() -> None:
    compression = new((2 * CUT + 1,))
    assert list(cuts(compression, 2 * CUT, flush=True)) == [Cut(CUT, False), Cut(2 * CUT, False)]
    assert list(cuts(compression, 2 * CUT + 2, ended=True)) == [Cut(2 * CUT + 1, True), Cut(2 * CUT + 2, False)]


def test_repeated_flush_at_the_end_of_identity_is_made() -> None:
    compression = new((7,))
    assert list(cuts(compression, 7, ended=True)) == [Cut(7, True)]


def test_identity_that_ends_before_a_repeated_flush_is_refused() -> None:
    compression = new((10, 20))
    with pytest.raises(ValueError, match="identity ended at 15, before the flush at 20 that is to be repeated"):
        list(cuts(compression, 15, ended=True))


@pytest.mark.parametrize("flushes", [(0,), (-1,), (1, 1), (2, 1), (2**63,)])
def test_flushes_that_do_not_increase_are_refused(flushes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cannot follow"):
        new(flushes)


@pytest.mark.parametrize("length", [0, 9, 11])
def test_piece_of_another_length_is_refused(length: int) -> None:
    compression = new()
    with pytest.raises(ValueError, match="do not end at 10"):
        compression.take(bytes(length), Cut(10, True))
    assert compression.position == 0
    assert compression.flushes == ()


def test_coder_gets_each_cut_whole() -> None:
    recorder = Recorder()
    compression = Compression(recorder)
    list(cuts(compression, CUT))
    list(cuts(compression, CUT, flush=True))
    list(cuts(compression, CUT + 3, flush=True))
    list(cuts(compression, CUT + 4, ended=True))
    compression.end()
    assert recorder.calls == [CUT, "flush", 3, "flush", 1, "end"]
    assert compression.coder_name == "recorder"


def test_cuts_of_an_export_with_many_flushes_take_the_same_time_each() -> None:
    compression = new(tuple(range(1, MANY)))
    begun = thread_time()
    assert sum(1 for _ in cuts(compression, MANY)) == MANY - 1
    for frontier in range(MANY, 2 * MANY):
        assert list(cuts(compression, frontier, flush=True))
    assert thread_time() - begun < 10
    assert compression.flushes == tuple(range(1, 2 * MANY))


# The bytes


@dataclass
class Made:
    """A representation, and how many of its bytes there were after each flush."""

    compressed: bytes
    flushes: tuple[int, ...]
    ready: list[int]


def make(coding: Coding, content: bytes, arrivals: list[Arrival], flushes: tuple[int, ...] = ()) -> Made:
    """Compresses `content` as it arrives."""
    compression = Compression(coder(coding), flushes)
    compressed, ready = bytearray(), []
    for arrival, ended in [*((each, False) for each in arrivals), (Arrival(len(content), flush=True), True)]:
        while cut := compression.next_cut(arrival.frontier, ended=ended, flush=arrival.flush):
            compressed += compression.take(content[compression.position : cut.stop], cut)
            if cut.flush:
                ready.append(len(compressed))
    assert compression.position == len(content)
    return Made(bytes(compressed + compression.end()), compression.flushes, ready)


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Up to three cuts of rows, and of bytes that compress better or worse."""
    size = draw(st.integers(0, 3 * CUT) | st.sampled_from([CUT - 1, CUT, CUT + 1, 2 * CUT]))
    source = random.Random(draw(st.integers(0, 2**32)))
    content = b""
    while len(content) < size:
        start, length = source.randrange(len(USERS)), source.randrange(1, CUT)
        content += source.choice([USERS[start : start + length], bytes(length), source.randbytes(length)])
    return content[:size]


@st.composite
def arrivals(draw: st.DrawFn, size: int) -> list[Arrival]:
    offsets = st.integers(0, size) | st.integers(0, size // CUT).map(lambda number: number * CUT)
    frontiers = sorted(draw(st.lists(offsets, max_size=12)))
    return [Arrival(frontier, draw(st.booleans())) for frontier in frontiers]


def cases() -> st.SearchStrategy[tuple[bytes, list[Arrival], list[Arrival]]]:
    """Contents, how they arrive the first time, and how they arrive when they are compressed again."""
    return contents().flatmap(lambda content: st.tuples(st.just(content), *[arrivals(len(content))] * 2))


@both
@settings(deadline=None, max_examples=100)
@given(case=cases())
def test_bytes_are_repeated_however_identity_arrives(
    coding: Coding, case: tuple[bytes, list[Arrival], list[Arrival]]
) -> None:
    content, first, second = case
    made = make(coding, content, first)
    assert decoder(coding)(made.compressed) == content
    assert make(coding, content, [], made.flushes) == made
    # Flushes are asked for anew only where the first making had none either.
    quiet = [Arrival(each.frontier, flush=False) for each in second]
    assert make(coding, content, quiet, made.flushes) == made


@both
@settings(deadline=None, max_examples=100)
@given(case=cases())
def test_bytes_up_to_a_flush_can_be_decoded(coding: Coding, case: tuple[bytes, list[Arrival], list[Arrival]]) -> None:
    content, first, _ = case
    made = make(coding, content, first)
    assert len(made.ready) == len(made.flushes)
    for offset, ready in zip(made.flushes, made.ready, strict=True):
        assert decoder(coding)(made.compressed[:ready]) == content[:offset]


@both
@settings(deadline=None, max_examples=100)
@given(case=cases())
def test_a_making_that_goes_on_after_the_repeated_flushes_begins_with_the_same_bytes(
    coding: Coding, case: tuple[bytes, list[Arrival], list[Arrival]]
) -> None:
    content, first, second = case
    made = make(coding, content, first)
    published = made.ready[-1] if made.ready else 0
    again = make(coding, content, second, made.flushes)
    assert again.compressed[:published] == made.compressed[:published]
    assert again.flushes[: len(made.flushes)] == made.flushes
    assert make(coding, content, [], again.flushes) == again


@both
def test_other_flushes_make_other_bytes(coding: Coding) -> None:
    content = random.Random(1).randbytes(CUT)
    assert make(coding, content, [], (1000,)).compressed != make(coding, content, [], (1001,)).compressed


# Packed offsets

increasing = st.lists(st.integers(1, 2**40), max_size=50).map(
    lambda steps: [sum(steps[: n + 1]) for n in range(len(steps))]
)


@given(increasing)
def test_packed_offsets_are_unpacked(offsets: list[int]) -> None:
    assert unpack_offsets(pack_offsets(offsets)) == tuple(offsets)


@given(increasing, st.integers(0, 50))
def test_offsets_packed_later_are_appended(offsets: list[int], number: int) -> None:
    earlier, later = offsets[:number], offsets[number:]
    assert pack_offsets(earlier) + pack_offsets(later, after=max(earlier, default=0)) == pack_offsets(offsets)


@given(st.binary(max_size=30))
def test_packed_bytes_are_refused_or_the_only_ones_of_their_offsets(packed: bytes) -> None:
    try:
        offsets = unpack_offsets(packed)
    except ValueError:
        return
    assert pack_offsets(offsets) == packed


@pytest.mark.parametrize(
    ("packed", "sentence"),
    [
        (b"\x80", "cut"),
        (b"\x01\xff", "cut"),
        (b"\x00", "damaged"),
        (b"\x01\x00\x01", "damaged"),
        (b"\x81\x00", "damaged"),  # 1, in two bytes
        (b"\xff" * 9 + b"\x01", "damaged"),  # more than 2^63 - 1
        (b"\xff" * 8 + b"\x7f\x01", "damaged"),  # 2^63 - 1, and one more
        (b"\xff" * 1_000_000, "damaged"),
    ],
)
def test_damaged_offsets_are_refused(packed: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        unpack_offsets(packed)


def test_largest_offset_is_packed() -> None:
    assert unpack_offsets(pack_offsets([1, 2**63 - 1])) == (1, 2**63 - 1)


@pytest.mark.parametrize("offsets", [[0], [5, 5], [5, 4], [-1], [2**63]])
def test_offsets_that_do_not_increase_are_not_packed(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="cannot follow"):
        pack_offsets(offsets)


def test_many_offsets_are_small() -> None:
    offsets = tuple(range(90, 90 * MANY, 90))
    packed = pack_offsets(offsets)
    assert len(packed) == len(offsets)
    assert unpack_offsets(packed) == offsets
