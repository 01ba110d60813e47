"""Scenario 8: a load of everything for minutes, after which memory has stopped growing. The hour is run by hand."""

import os
import random
from pathlib import Path

import pytest

from tests.memory.conftest import Report
from tests.memory.plateau import MB, Moment, picture, plateau, told
from tests.memory.soak import SHARE, soak

MINUTES = float(os.environ.get("SOAK_MINUTES", "6"))
GROWTH = 1.05  # of the last quarter, in terms of the second
CHANCE = random.Random(20260207)


@pytest.mark.memory
@pytest.mark.timeout(60 * MINUTES + 300)
async def test_memory_stops_growing(spool: Path, database: str, used: Report) -> None:
    moments: list[Moment] = []
    found, visitors = await soak(
        database, spool, seconds=60 * MINUTES, cursor="auto", share=SHARE, write=moments.append
    )
    used.add(f"8. everything for {MINUTES:g} minutes", found, *told(moments).splitlines(), f"{dict(visitors.made)}")
    assert not visitors.wrong
    assert plateau(moments, lambda moment: moment.anonymous).growth <= GROWTH


def test_a_server_that_grows_is_told_from_one_that_does_not() -> None:
    flat = [_moment(second, 60 * MB + CHANCE.randrange(MB)) for second in range(1, 601)]
    grown = [_moment(second, 60 * MB + second * 30 * 1024) for second in range(1, 601)]
    found = plateau(flat, lambda moment: moment.rss)
    assert found.growth == pytest.approx(1, abs=0.005)
    assert abs(found.slope) < MB / 10
    found = plateau(grown, lambda moment: moment.rss)
    assert found.growth == pytest.approx(1 + 300 * 30 / 1024 / (60 + 225 * 30 / 1024), abs=0.005)
    assert found.slope == pytest.approx(60 * 30 * 1024)
    assert found.highest == grown[-1].rss
    assert picture(grown, "growing").count("<polyline") == 4


def _moment(second: int, rss: int) -> Moment:
    return Moment(at=float(second), rss=rss, anonymous=rss // 2, kernel=0, sockets=0, cpu=second / 4, visits=second)
