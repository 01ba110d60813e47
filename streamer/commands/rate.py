"""How fast the bytes of a download come in: over the last seconds, so that it falls when nothing comes."""

from collections.abc import Callable

WINDOW = 5.0  # seconds over which the rate is measured
SAMPLE_INTERVAL = 0.1  # seconds between two samples
SILENCE = 3.0  # seconds without a byte, from which on the silence is shown instead of a rate


class Rate:
    """The samples are replaced as a whole, because the progress bar reads them in another thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` returns seconds."""
        self._clock = clock
        self._samples: tuple[tuple[float, int], ...] = ()  # moment, bytes; the first one is the base of the rate
        self._latest: tuple[float, int] | None = None

    def add(self, count: int) -> None:
        """Notes that `count` bytes have come in, including those of earlier runs if it is the first call."""
        if self._latest and count <= self._latest[1]:
            return
        now = self._clock()
        self._latest = now, count
        if not self._samples or now - self._samples[-1][0] >= SAMPLE_INTERVAL:
            self._samples = (*_since(self._samples, now - WINDOW), self._latest)

    @property
    def bytes_per_second(self) -> float | None:
        """None before a rate can be known."""
        now = self._clock()
        recent = _since(self._samples, now - WINDOW)
        if not recent or not self._latest or now <= recent[0][0]:
            return None
        return (self._latest[1] - recent[0][1]) / (now - recent[0][0])

    @property
    def silence(self) -> float | None:
        """Returns for how many seconds no byte has come in; None if that is not worth a word."""
        if self._latest is None:
            return None
        silence = self._clock() - self._latest[0]
        return silence if silence >= SILENCE else None


def _since(samples: tuple[tuple[float, int], ...], begin: float) -> tuple[tuple[float, int], ...]:
    """Returns the samples since `begin`, and the last one before that."""
    older = sum(1 for moment, _ in samples if moment <= begin)
    return samples[max(older - 1, 0) :]
