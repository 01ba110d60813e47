"""Present and missing slices, compared with a set of positions."""

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
def test_merged_slices_have_the_same_bytes_sorted_with_gaps_between(found: list[Slice]) -> None:
    result = merge(found)
    assert positions(result) == positions(found)
    assert all(piece.length > 0 for piece in result)
    assert all(before.stop < after.start for before, after in pairwise(result))


@given(slices, st.integers(1, 20))
def test_present_and_missing_slices_are_the_whole_file(found: list[Slice], max_piece: int) -> None:
    present = merge(found)
    wanted = list(missing(present, LENGTH, max_piece))
    assert all(0 < piece.length <= max_piece for piece in wanted)
    assert sum(piece.length for piece in wanted) == LENGTH - len(positions(present))
    assert positions(wanted) | positions(present) == set(range(LENGTH))
