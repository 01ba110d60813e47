"""Random faults between a pull and its server: a verified file, or a part that the next run completes.

By default there are a few schedules; `-m sweep` plays 200. The seed is printed, and SWEEP_SEED repeats it.
"""

import asyncio
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.faults.pulling import DATASET, SLOW, SLOWLY, Schedule
from tests.gates import Gates

AT_ONCE = 4  # schedules


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an export of this size has many, and is synced while it comes."""
    monkeypatch.setattr("streamer.client.saving.MIN_PIECE", 50_000)
    monkeypatch.setattr("streamer.client.writing.SYNC_INTERVAL", 50_000)


@pytest.mark.parametrize(
    "schedules",
    [pytest.param(24, id="24"), pytest.param(200, id="200", marks=[pytest.mark.sweep, pytest.mark.timeout(1200)])],
)
async def test_a_pull_behind_faults_is_the_export_or_can_be_gone_on_with(
    serve: Serve, gates: Gates, tmp_path: Path, seed: int, schedules: int
) -> None:
    await gates.connection.execute(SLOWLY)
    await gates.dataset(DATASET, SLOW)
    server = await serve(**gates.settings, max_concurrent_exports=AT_ONCE)
    folder = tmp_path / "pulled"
    folder.mkdir()
    free = asyncio.Semaphore(AT_ONCE)
    lots = [Schedule(server.url, folder, seed + number) for number in range(schedules)]

    async def play(schedule: Schedule) -> list[str]:
        async with free:
            return await schedule.play()

    flaws = [flaw for found in await asyncio.gather(*map(play, lots)) for flaw in found]
    faults, runs, gone_on = (
        sum(counts) for counts in zip(*((lot.faults, lot.runs, lot.gone_on) for lot in lots), strict=True)
    )
    print(f"{schedules} schedules, {faults} faults, {runs} runs, {gone_on} gone on with, {len(flaws)} violations")
    assert not flaws, "\n".join(flaws)
    assert not list(folder.iterdir())
