"""The gate before a source that is away: one attempt at a time, and nobody is left behind it."""

import asyncio
from collections.abc import Callable

import pytest

from streamer.jobs.gate import SourceGate

QUICK = 0.01  # seconds of the longest pause
WAIT = 10.0  # seconds until a test that waits has failed


class Workers:
    """Workers that want to begin an export; each run ends as the source then answers."""

    def __init__(self, gate: SourceGate, answer: Callable[[int], bool]) -> None:
        self.attempts = 0
        self.at_once = 0
        self.most_at_once = 0
        self._gate = gate
        self._answer = answer

    async def run(self) -> None:
        """Until a run has got a connection."""
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


async def test_an_open_gate_lets_everything_through() -> None:
    workers = Workers(SourceGate(), lambda attempt: True)
    await asyncio.gather(*(workers.run() for _ in range(5)))
    assert (workers.attempts, workers.most_at_once) == (5, 5)


async def test_while_the_source_is_away_there_is_one_attempt_at_a_time() -> None:
    gate = SourceGate(max_pause=QUICK)
    gate.went_away("refused")
    workers = Workers(gate, lambda attempt: attempt > 7)
    async with asyncio.timeout(WAIT):
        await asyncio.gather(*(workers.run() for _ in range(4)))
    assert workers.attempts == 7 + 4
    assert not gate.away


async def test_an_attempt_that_finds_nothing_to_run_leaves_the_next_one_to_another_worker() -> None:
    gate = SourceGate(max_pause=QUICK)
    gate.went_away("refused")
    async with asyncio.timeout(WAIT):
        async with gate.passage():
            pass
        async with gate.passage():
            gate.answered()
    assert not gate.away


async def test_a_worker_that_is_cancelled_in_its_pause_leaves_the_attempt_to_another() -> None:
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


async def test_a_run_that_ends_gives_a_connection_back_and_the_next_attempt_is_made_at_once() -> None:
    gate = SourceGate(max_pause=3600)
    for _ in range(20):
        gate.went_away("too many connections")
    entered = asyncio.Event()

    async def enter() -> None:
        async with gate.passage():
            entered.set()

    waiting = asyncio.create_task(enter())
    await asyncio.sleep(0.05)
    assert not entered.is_set()
    gate.released()
    async with asyncio.timeout(WAIT):
        await entered.wait()
    await waiting


async def test_the_time_away_counts_from_the_first_refusal() -> None:
    now = 100.0
    gate = SourceGate(clock=lambda: now)
    gate.went_away("refused")
    now = 130.0
    gate.went_away("refused")
    assert gate.away_since == 100.0
    gate.answered()
    assert gate.away_since is None
