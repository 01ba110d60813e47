"""Compression that can be repeated byte for byte.

A coder makes other bytes of the same input if the input is cut elsewhere. So identity is cut at multiples of `CUT`,
however it arrives. There are two other cuts. A flush is made while an export is live, so that its rows can be decoded
at once; the offsets of flushes are recorded, and repeated when the representation is made again. The other is the end.
The result thus depends on the bytes, the coder and the offsets of the flushes alone.

While flushes are repeated there are no new ones: a new flush between two of them would change the bytes after it.

Nothing here waits: `next_cut` decides, the caller reads the bytes and calls `take`, in a thread.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

from streamer.formats.coders import Coder

CUT = 256 * 1024  # bytes of identity
MAX_OFFSET = 2**63 - 1  # of a file


@dataclass(frozen=True, slots=True)
class Cut:
    """Where the next piece of identity ends, an offset in bytes, and whether it is flushed."""

    stop: int
    flush: bool


class Compression:
    """Compresses one representation of an export.

    `flushes` are the offsets in identity at which an earlier making was flushed, to be repeated. Raises ValueError if
    they do not increase.
    """

    def __init__(self, coder: Coder, flushes: Iterable[int] = ()) -> None:
        self._coder = coder
        self._position = 0
        self._flushes = array("Q", _increasing(flushes))  # an export of few rows at a time has many
        self._flushed = 0  # how many of the flushes were made

    @property
    def coder_name(self) -> str:
        return self._coder.name

    @property
    def is_repeating(self) -> bool:
        """Whether flushes of an earlier making are still to be repeated."""
        return self._flushed < len(self._flushes)

    @property
    def position(self) -> int:
        """The number of bytes of identity that were compressed."""
        return self._position

    @property
    def flushes(self) -> tuple[int, ...]:
        """The offsets in identity that were flushed so far. A copy of all of them: not for every cut."""
        return tuple(self._flushes[: self._flushed])

    def next_cut(self, frontier: int, *, ended: bool, flush: bool) -> Cut | None:
        """Returns up to where to compress next, if identity has `frontier` bytes. `flush` asks for a new flush there.

        None if there is nothing to compress before identity has more bytes; if it has `ended`, `end` is next. The end
        needs no flush. Raises ValueError if identity ended before a flush that is to be repeated.
        """
        boundary = self._position - self._position % CUT + CUT
        if self.is_repeating:
            return self._repeated(boundary, frontier, ended=ended)
        if boundary < frontier:
            return Cut(boundary, flush=False)
        if ended:
            return Cut(frontier, flush=False) if self._position < frontier else None
        if flush and self._last_flush < frontier:
            return Cut(frontier, flush=True)
        return Cut(boundary, flush=False) if boundary == frontier else None

    def _repeated(self, boundary: int, frontier: int, *, ended: bool) -> Cut | None:
        repeated = self._flushes[self._flushed]
        if ended and repeated > frontier:
            raise ValueError(f"identity ended at {frontier}, before the flush at {repeated} that is to be repeated")
        stop = min(boundary, repeated)
        return Cut(stop, flush=stop == repeated) if stop <= frontier else None

    @property
    def _last_flush(self) -> int:
        return self._flushes[-1] if self._flushes else 0

    def take(self, piece: bytes | memoryview, cut: Cut) -> bytes:
        """Compresses the bytes of identity from `position` to `cut.stop`, and returns those that are ready.

        Raises ValueError if `piece` has another length.
        """
        if len(piece) != cut.stop - self._position:
            raise ValueError(f"{len(piece)} bytes at {self._position} do not end at {cut.stop}")
        compressed = self._coder.compress(piece) if piece else b""
        if cut.flush:
            compressed += self._coder.flush()
            self._record(cut.stop)
        self._position = cut.stop
        return compressed

    def _record(self, offset: int) -> None:
        if self._flushed == len(self._flushes):
            self._flushes.append(offset)
        self._flushed += 1

    def end(self) -> bytes:
        """Returns the last bytes of the representation."""
        return self._coder.end()


def pack_offsets(offsets: Iterable[int], after: int = 0) -> bytes:
    """Returns increasing offsets as bytes: the differences in LEB128, two or three bytes each.

    With `after`, the last offset of others, the result can be appended to theirs. Raises ValueError if the offsets do
    not increase.
    """
    packed = bytearray()
    for offset in _increasing(offsets, after):
        difference, after = offset - after, offset
        while difference > 0x7F:
            packed.append(difference & 0x7F | 0x80)
            difference >>= 7
        packed.append(difference)
    return bytes(packed)


def unpack_offsets(packed: bytes) -> tuple[int, ...]:
    """Returns the offsets that `pack_offsets` packed. Raises ValueError if the bytes are not from there."""
    offsets = array("Q")
    last = difference = shift = 0
    for byte in packed:
        difference |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            last += difference
            if not byte or last > MAX_OFFSET:  # each difference has one form, and none is 0
                raise ValueError("the packed offsets are damaged")
            offsets.append(last)
            difference = shift = 0
        elif shift > MAX_OFFSET.bit_length():
            raise ValueError("the packed offsets are damaged")
    if shift:
        raise ValueError("the packed offsets are cut")
    return tuple(offsets)


def _increasing(offsets: Iterable[int], after: int = 0) -> Iterable[int]:
    """Yields the offsets. Raises ValueError at one that is not greater than the one before."""
    for offset in offsets:
        if not after < offset <= MAX_OFFSET:
            raise ValueError(f"the offset {offset} cannot follow {after}")
        yield offset
        after = offset
