"""Every export that is completed is a state that was committed while its snapshot was taken, whatever is changed.

By default there are seconds of it; `-m sweep` makes minutes. The seed is printed, and SWEEP_SEED draws the same changes.
"""

from pathlib import Path

import pytest

from tests.faults.truth import Stage, run

lasting = pytest.mark.parametrize(
    "seconds",
    [pytest.param(5, id="5s"), pytest.param(300, id="300s", marks=[pytest.mark.sweep, pytest.mark.timeout(900)])],
)


@lasting
async def test_an_export_is_a_state_that_was_committed(database: str, tmp_path: Path, seed: int, seconds: float) -> None:
    tally = await run(Stage(database, database, tmp_path), seed, seconds)
    print(tally)
    for failure, times in tally.failed.most_common():
        print(f"{times:4} × {failure}")
    assert not tally.flaws, "\n".join(tally.flaws)
    assert not tally.victims, "\n".join(tally.victims)
    assert tally.completed
