"""Whether memory that was sampled for long has stopped growing: quarters, a slope, and a picture of them."""

import itertools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

KB, MB = 1024, 1024 * 1024
WIDTH, HEIGHT, LEFT, BOTTOM = 960, 420, 60, 40  # of the picture
MOST_POINTS = 1200  # of a line in it
COLOURS = {"rss": "#1f77b4", "anonymous": "#d62728", "kernel": "#2ca02c", "sockets": "#9467bd"}


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """Of one server: seconds since the soak began, bytes of memory, seconds of CPU, and what it has been asked."""

    at: float
    rss: int
    anonymous: int
    kernel: int
    sockets: int
    cpu: float
    visits: int


class Plateau(msgspec.Struct, frozen=True, kw_only=True):
    """Medians of the four quarters and of the last tenth in bytes, and the growth of the second half in bytes a minute.

    The first quarter is the warming up: pools, caches and buffers grow to what they are made for.
    """

    quarters: tuple[float, float, float, float]
    last_tenth: float
    highest: int
    slope: float

    @property
    def growth(self) -> float:
        """The last quarter in terms of the second."""
        return self.quarters[3] / self.quarters[1]

    def __str__(self) -> str:
        quarters = " ".join(f"{quarter / MB:6.1f}" for quarter in self.quarters)
        return (
            f"{quarters} MB a quarter, last tenth {self.last_tenth / MB:.1f}, highest {self.highest / MB:.1f};"
            f" last / second quarter {self.growth:.3f}; second half {self.slope / KB:+.1f} kB a minute"
        )


def plateau(moments: Sequence[Moment], of: Callable[[Moment], int]) -> Plateau:
    values = [of(moment) for moment in moments]
    edges = [len(values) * number // 4 for number in range(5)]
    first, second, third, fourth = (statistics.median(values[start:stop]) for start, stop in itertools.pairwise(edges))
    half = moments[edges[2] :]
    slope = statistics.linear_regression([moment.at / 60 for moment in half], [of(moment) for moment in half]).slope
    return Plateau(
        quarters=(first, second, third, fourth),
        last_tenth=statistics.median(values[-max(1, len(values) // 10) :]),
        highest=max(values),
        slope=slope,
    )


def read(file: Path) -> list[Moment]:
    """The samples of a soak, which may be running."""
    return [
        msgspec.json.decode(line, type=Moment)
        for line in file.read_bytes().splitlines(keepends=True)
        if line[-1:] == b"\n"
    ]


def told(moments: Sequence[Moment]) -> str:
    """The figures, one a line."""
    last = moments[-1]
    return "\n".join(
        (
            f"{last.at / 60:.1f} minutes, {last.visits:,} visits, {last.cpu:.0f} s of CPU"
            f" ({last.cpu / last.at:.2f} cores)",
            f"RSS        {plateau(moments, lambda moment: moment.rss)}",
            f"anonymous  {plateau(moments, lambda moment: moment.anonymous)}",
        )
    )


def picture(moments: Sequence[Moment], title: str) -> str:
    """SVG."""
    end = moments[-1].at
    top = max(moment.rss for moment in moments) * 1.1
    step = max(1, len(moments) // MOST_POINTS)

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT - 10) * at / end

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 30) * value / top

    def line(name: str, colour: str) -> str:
        points = " ".join(f"{x(moment.at):.1f},{y(getattr(moment, name)):.1f}" for moment in moments[::step])
        return f'<polyline fill="none" stroke="{colour}" stroke-width="1" points="{points}"/>'

    marks = [
        f'<text x="5" y="{y(value * MB) + 4:.1f}">{value} MB</text>'
        f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y(value * MB):.1f}" y2="{y(value * MB):.1f}" stroke="#ddd"/>'
        for value in range(0, int(top / MB) + 1, 10)
    ]
    marks += [
        f'<text x="{x(end * tenth / 10):.1f}" y="{HEIGHT - 20}">{end * tenth / 600:.1f} min</text>'
        for tenth in range(0, 10, 2)
    ]
    legend = [
        f'<text x="{LEFT + 120 * number}" y="{HEIGHT - 4}" fill="{colour}">{name}</text>'
        for number, (name, colour) in enumerate(COLOURS.items())
    ]
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
            ' font-family="sans-serif" font-size="11">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/><text x="{LEFT}" y="16">{title}</text>',
            *marks,
            *(line(name, colour) for name, colour in COLOURS.items()),
            *legend,
            "</svg>\n",
        )
    )
