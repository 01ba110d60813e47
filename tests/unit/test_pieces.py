"""Which bytes are there and which are missing, against a set of numbers."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from streamer.client.pieces import merge, missing
from streamer.protocol.ranges import Slice

LENGTH = 60
slices = st.lists(
    st.tuples(st.integers(0, LENGTH), st.integers(0, LENGTH)).map(lambda pair: Slice(min(pair), max(pair))), max_size=8
)


def positions(found: list[Slice]) -> set[int]:
    return {position for piece in found for position in range(piece.start, piece.stop)}


@given(slices)
def test_joined_slices_are_the_same_bytes_in_order_with_gaps_between(found: list[Slice]) -> None:
    result = merge(found)
    assert positions(result) == positions(found)
    assert all(piece.length > 0 for piece in result)
    assert all(before.stop < after.start for before, after in pairwise(result))


@given(slices, st.integers(1, 20))
def test_there_and_missing_are_all(found: list[Slice], most: int) -> None:
    there = merge(found)
    wanted = list(missing(there, LENGTH, most))
    assert all(0 < piece.length <= most for piece in wanted)
    assert sum(piece.length for piece in wanted) == LENGTH - len(positions(there))
    assert positions(wanted) | positions(there) == set(range(LENGTH))
