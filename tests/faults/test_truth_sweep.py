"""Every export that is completed is a state that was committed while its snapshot was taken, whatever is changed.

By default there are seconds of it; `-m sweep` makes minutes. The seed is printed; SWEEP_SEED draws the same changes.
A standby replays the changes of its primary, and may end an export to do so: visibly.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import at_database, connected
from tests.faults.truth import Stage, Tally, run
from tests.standby import BASEBACKUP, Pair, paired

lasting = pytest.mark.parametrize(
    "seconds",
    [pytest.param(4, id="4s"), pytest.param(300, id="300s", marks=[pytest.mark.sweep, pytest.mark.timeout(900)])],
)
NAME = "truth"  # of the database of a pair
RECOVERY_WAITS = "300ms"  # for an export, before it ends it


def judged(tally: Tally) -> None:
    print(tally)
    for failure, times in tally.failed.most_common():
        print(f"{times:4} x {failure}")
    assert not tally.flaws, "\n".join(tally.flaws)
    assert not tally.victims, "\n".join(tally.victims)
    assert tally.completed


@lasting
async def test_an_export_is_a_state_that_was_committed(
    database: str, tmp_path: Path, seed: int, seconds: float
) -> None:
    judged(await run(Stage(database, database, tmp_path), seed, seconds))


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with paired(f"CREATE DATABASE {NAME}") as found:
        yield found


@pytest.fixture
async def replicated(pair: Pair) -> Pair:
    async with connected(pair.standby) as standby:
        await standby.execute(f"ALTER SYSTEM SET max_standby_streaming_delay = '{RECOVERY_WAITS}'")
        await standby.execute("SELECT pg_reload_conf()")
    return Pair(at_database(pair.primary, NAME), at_database(pair.standby, NAME))


@pytest.mark.sweep
@pytest.mark.timeout(900)
@pytest.mark.skipif(not BASEBACKUP.exists(), reason="the embedded PostgreSQL comes without pg_basebackup")
async def test_an_export_of_a_standby_is_a_state_that_was_committed(
    replicated: Pair, tmp_path: Path, seed: int
) -> None:
    judged(await run(Stage(replicated.primary, replicated.standby, tmp_path, replicated.caught_up), seed, 120))
