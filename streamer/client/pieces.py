"""Which bytes of a file exist and which are missing, as slices: pure functions."""

from collections.abc import Iterable, Iterator, Sequence

from streamer.protocol.ranges import Slice


def merge(slices: Iterable[Slice]) -> list[Slice]:
    """Returns the same bytes as sorted slices that neither overlap nor touch."""
    merged: list[Slice] = []
    for piece in sorted(slices):
        if merged and piece.start <= merged[-1].stop:
            merged[-1] = Slice(merged[-1].start, max(merged[-1].stop, piece.stop))
        elif piece.length > 0:
            merged.append(piece)
    return merged


def missing(present: Sequence[Slice], length: int, max_piece: int) -> Iterator[Slice]:
    """Yields the bytes of `[0, length)` outside of the merged slices `present`, at most `max_piece` bytes each."""
    starts = [0, *(piece.stop for piece in present)]
    stops = [*(piece.start for piece in present), length]
    for start, stop in zip(starts, stops, strict=True):
        for position in range(start, stop, max_piece):
            yield Slice(position, min(position + max_piece, stop))


def total_length(pieces: Iterable[Slice]) -> int:
    """Returns bytes."""
    return sum(piece.length for piece in pieces)
