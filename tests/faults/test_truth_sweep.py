"""Every export that is completed is a state that was committed while its snapshot was taken, whatever is changed.

By default there are seconds of it; `-m sweep` makes minutes. The seed is printed; SWEEP_SEED draws the same changes.
A standby replays the changes of its primary, and may end an export to do so: visibly.
"""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import at_database, connected
from tests.faults.ledger import MADE, WHOLE, Asked, Begun, Judge, LedgerWriter
from tests.faults.truth import Stage, Tally, run
from tests.integration.sources import plain_session
from tests.restarting import BASEBACKUP
from tests.standby import Pair, paired

lasting = pytest.mark.parametrize(
    "seconds",
    [pytest.param(3, id="3s"), pytest.param(300, id="300s", marks=[pytest.mark.sweep, pytest.mark.timeout(900)])],
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


SMALL = Asked("small", WHOLE)
HEAD = b"id,generation\n"
FIRST, SECOND = HEAD + b"1,1\n2,1\n", HEAD + b"1,2\n2,2\n"


@pytest.fixture
async def small(database: str) -> AsyncIterator[tuple[Judge, Begun]]:
    """A table of two states, and an export that began when it was in the first."""
    async with plain_session(database) as plain:
        await plain.execute(MADE)
        await plain.execute("CREATE TABLE small AS SELECT id, 1 AS generation FROM generate_series(1, 2) id")
        ledger, judge = LedgerWriter(plain, "small", [SMALL], role="none"), Judge(plain)
        await ledger.describe("made")
        begun = await judge.begin("small", SMALL)
        await plain.execute("UPDATE small SET generation = 2")
        await ledger.describe("updated")
        yield judge, begun


@pytest.mark.parametrize("body", [FIRST, SECOND, HEAD + b"2,1\n1,1\n"])
async def test_the_ledger_knows_the_states_that_were(small: tuple[Judge, Begun], body: bytes) -> None:
    judge, begun = small
    assert await judge.flaw(begun, body, datetime.now(UTC)) is None


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(HEAD, id="empty"),
        pytest.param(HEAD + b"1,2\n2,1\n", id="two generations"),
        pytest.param(HEAD + b"1,1\n", id="a row is missing"),
        pytest.param(FIRST + b"1,2\n2,2\n", id="both"),
        pytest.param(b"id\n1\n2\n", id="a column is missing"),
        pytest.param(b"\n\n\n", id="no columns"),
        pytest.param(HEAD + b'1,"(1,CANARY)"\n2,1\n', id="a hidden value"),
    ],
)
async def test_the_ledger_knows_no_state_that_never_was(small: tuple[Judge, Begun], body: bytes) -> None:
    judge, begun = small
    assert await judge.flaw(begun, body, datetime.now(UTC))


async def test_the_ledger_tells_a_state_that_was_over_and_a_snapshot_that_is_too_old(
    small: tuple[Judge, Begun],
) -> None:
    judge, begun = small
    now = await judge.begin("small", SMALL)
    assert await judge.flaw(now, FIRST, datetime.now(UTC))
    assert await judge.flaw(begun, SECOND, datetime.now(UTC) - timedelta(minutes=1))


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
