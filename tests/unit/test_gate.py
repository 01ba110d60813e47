"""The gate before a source that is away: one attempt at a time, and every waiting worker passes in the end."""

import asyncio
import logging
from collections.abc import Callable

import pytest

from streamer.jobs.gate import FIRST_PAUSE, LOG_INTERVAL, MAX_PAUSE, SourceGate
from tests.unit.clock import Clock
from tests.unit.spools import let_the_loop_run

QUICK = 0.01  # seconds, the maximum pause
WAIT = 10.0  # seconds until a test that waits has failed


class Workers:
    """Workers that begin an export; each run ends with the current answer of the source."""

    def __init__(self, gate: SourceGate, answer: Callable[[int], bool]) -> None:
        self.attempts = 0
        self.at_once = 0
        self.most_at_once = 0
        self._gate = gate
        self._answer = answer

    async def run(self) -> None:
        """Returns when a run has got a connection."""
        while True:
            async with self._gate.passage():
                self.attempts += 1
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                await asyncio.sleep(0)
                self.at_once -= 1
                if self._answer(self.attempts):
                    self._gate.answered()
                    return
                self._gate.went_away("refused")


async def test_every_worker_passes_an_open_gate() -> None:
    workers = Workers(SourceGate(), lambda attempt: True)
    await asyncio.gather(*(workers.run() for _ in range(5)))
    assert (workers.attempts, workers.most_at_once) == (5, 5)


async def test_one_attempt_at_a_time_while_the_source_is_away() -> None:
    gate = SourceGate(max_pause=QUICK)
    gate.went_away("refused")
    workers = Workers(gate, lambda attempt: attempt > 7)
    async with asyncio.timeout(WAIT):
        await asyncio.gather(*(workers.run() for _ in range(4)))
    assert workers.attempts == 7 + 4
    assert not gate.away


async def test_another_worker_makes_the_next_attempt_if_one_has_nothing_to_run() -> None:
    gate = SourceGate(max_pause=QUICK)
    gate.went_away("refused")
    async with asyncio.timeout(WAIT):
        async with gate.passage():
            pass
        async with gate.passage():
            gate.answered()
    assert not gate.away


async def test_another_worker_makes_the_attempt_of_one_that_is_cancelled_in_its_pause() -> None:
    gate = SourceGate()
    gate.went_away("refused")
    entered = asyncio.Event()

    async def enter() -> None:
        async with gate.passage():
            entered.set()

    pausing = asyncio.create_task(enter())
    waiting = asyncio.create_task(enter())
    await asyncio.sleep(0)
    pausing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pausing
    async with asyncio.timeout(WAIT):
        await entered.wait()
    await waiting


async def test_next_attempt_is_made_at_once_when_a_run_frees_its_connection() -> None:
    gate = SourceGate(max_pause=3600)
    for _ in range(20):
        gate.went_away("too many connections")
    entered = asyncio.Event()

    async def enter() -> None:
        async with gate.passage():
            entered.set()

    waiting = asyncio.create_task(enter())
    await let_the_loop_run()
    assert not entered.is_set()
    gate.released()
    async with asyncio.timeout(WAIT):
        await entered.wait()
    await waiting


async def test_time_away_counts_from_the_first_refusal() -> None:
    now = 100.0
    gate = SourceGate(clock=lambda: now)
    gate.went_away("refused")
    now = 130.0
    gate.went_away("refused")
    assert gate.away_since == 100.0
    gate.answered()
    assert gate.away_since is None


async def pass_once(gate: SourceGate) -> None:
    async with gate.passage():
        pass


@pytest.mark.parametrize(
    ("failures", "longest"), [(1, FIRST_PAUSE), (2, 2 * FIRST_PAUSE), (3, 4 * FIRST_PAUSE), (5, 4.0), (1000, MAX_PAUSE)]
)
async def test_pause_doubles_with_each_failure_up_to_a_maximum(clock: Clock, failures: int, longest: float) -> None:
    gate = SourceGate()
    for _ in range(failures):
        gate.went_away("refused")
    waiting = asyncio.create_task(pass_once(gate))
    await let_the_loop_run()
    await clock.advance(longest * 0.49)
    assert not waiting.done()
    await clock.advance(longest * 0.52)
    assert waiting.done()


async def test_first_pause_after_an_answer_is_short_again(clock: Clock) -> None:
    gate = SourceGate()
    for _ in range(5):
        gate.went_away("refused")
    gate.answered()
    gate.went_away("refused")
    waiting = asyncio.create_task(pass_once(gate))
    await let_the_loop_run()
    await clock.advance(FIRST_PAUSE * 1.01)
    assert waiting.done()


async def test_connection_that_was_freed_before_a_refusal_ends_no_pause(clock: Clock) -> None:
    """The refusal is newer: that connection was taken by someone else."""
    gate = SourceGate()
    gate.released()
    gate.went_away("too many connections")
    waiting = asyncio.create_task(pass_once(gate))
    await let_the_loop_run()
    assert not waiting.done()
    await clock.advance(FIRST_PAUSE)
    assert waiting.done()


async def test_freed_connection_ends_one_pause(clock: Clock) -> None:
    gate = SourceGate()
    gate.went_away("too many connections")
    first = asyncio.create_task(pass_once(gate))
    await let_the_loop_run()
    gate.released()
    await let_the_loop_run()
    assert first.done()
    second = asyncio.create_task(pass_once(gate))
    await let_the_loop_run()
    assert not second.done()
    await clock.advance(FIRST_PAUSE)
    assert second.done()


async def test_log_has_one_line_for_each_interval_while_the_source_is_away(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streamer.jobs.gate")
    now = 100.0
    gate = SourceGate(clock=lambda: now)
    gate.answered()
    gate.went_away("refused")
    now += LOG_INTERVAL - 1
    gate.went_away("refused")
    now += 1
    gate.went_away("still refused")
    gate.went_away("refused")
    now += 12
    gate.answered()
    gate.went_away("refused again")
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "exports wait for the database: refused",
        "exports wait for the database: still refused",
        "the database answers again after 42 s",
        "exports wait for the database: refused again",
    ]


async def test_run_that_began_before_the_source_went_away_does_not_end_the_attempt_of_another(clock: Clock) -> None:
    gate = SourceGate()
    ends = [asyncio.Event(), asyncio.Event()]

    async def run(end: asyncio.Event) -> None:
        async with gate.passage():
            await end.wait()

    earlier = asyncio.create_task(run(ends[0]))
    await let_the_loop_run()
    gate.went_away("refused")
    attempting = asyncio.create_task(run(ends[1]))
    await let_the_loop_run()
    await clock.advance(FIRST_PAUSE)
    ends[0].set()
    await earlier
    third = asyncio.create_task(pass_once(gate))
    await let_the_loop_run()
    await clock.advance(2 * FIRST_PAUSE)
    assert not third.done()
    gate.answered()
    await third
    ends[1].set()
    await attempting
