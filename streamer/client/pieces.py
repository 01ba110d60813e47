"""Which bytes of a file are there and which are missing, as slices: no I/O."""

from collections.abc import Iterable, Iterator, Sequence

from streamer.protocol.ranges import Slice


def joined(slices: Iterable[Slice]) -> list[Slice]:
    """The same bytes in as few slices as possible, in their order."""
    found: list[Slice] = []
    for piece in sorted(slices):
        if found and piece.start <= found[-1].stop:
            found[-1] = Slice(found[-1].start, max(found[-1].stop, piece.stop))
        elif piece.length > 0:
            found.append(piece)
    return found


def missing(there: Sequence[Slice], length: int, most: int) -> Iterator[Slice]:
    """What of `[0, length)` is not in the joined slices `there`, in pieces of at most `most` bytes."""
    starts = [0, *(piece.stop for piece in there)]
    stops = [*(piece.start for piece in there), length]
    for start, stop in zip(starts, stops, strict=True):
        for position in range(start, stop, most):
            yield Slice(position, min(position + most, stop))
