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


@pytest.mark.parametrize(
    "schedules",
    [pytest.param(24, id="24"), pytest.param(200, id="200", marks=[pytest.mark.sweep, pytest.mark.timeout(1200)])],
)
async def test_a_pull_behind_faults_is_the_export_or_can_be_resumed(
    serve: Serve, gates: Gates, tmp_path: Path, seed: int, schedules: int
) -> None:
    await gates.connection.execute(SLOWLY)
    await gates.dataset(DATASET, SLOW)
    server = await serve(**gates.settings, max_concurrent_exports=AT_ONCE)
    folder = tmp_path / "pulled"
    folder.mkdir()
    free = asyncio.Semaphore(AT_ONCE)
    plans = [Schedule(server.url, folder, seed + number) for number in range(schedules)]

    async def play(schedule: Schedule) -> list[str]:
        async with free:
            return await schedule.play()

    violations = [violation for found in await asyncio.gather(*map(play, plans)) for violation in found]
    faults, runs, resumed = (
        sum(counts) for counts in zip(*((plan.faults, plan.runs, plan.resumed) for plan in plans), strict=True)
    )
    print(f"{schedules} schedules, {faults} faults, {runs} runs, {resumed} resumed, {len(violations)} violations")
    assert not violations, "\n".join(violations)
    assert not list(folder.iterdir())
