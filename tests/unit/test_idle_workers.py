"""Idle workers, without a database: who runs the next export, and which wake-ups are kept."""

import asyncio
from typing import cast

import pytest

from streamer.jobs.active import ActiveExport
from streamer.jobs.gate import SourceGate
from streamer.jobs.idle_workers import Begun, IdleWorkers
from streamer.model import ExportSpec
from tests.unit.spools import let_the_loop_run, soon

BEGUN = (cast("ActiveExport", object()), ExportSpec(dataset="users", columns=("id",)))


@pytest.fixture
async def gate() -> SourceGate:
    return SourceGate()


@pytest.fixture
async def idle(gate: SourceGate) -> IdleWorkers:
    return IdleWorkers(gate)


async def worker(idle: IdleWorkers) -> "asyncio.Task[Begun | None]":
    task = asyncio.create_task(idle.next())
    await asyncio.sleep(0)
    return task


async def test_a_wake_up_wakes_one_worker(idle: IdleWorkers) -> None:
    first, second = await worker(idle), await worker(idle)
    idle.wake()
    assert await soon(first) is None
    assert not second.done()
    assert idle.any
    idle.wake()
    assert await soon(second) is None
    assert not idle.any


async def test_one_wake_up_is_kept_while_all_are_busy(idle: IdleWorkers) -> None:
    for _ in range(3):
        idle.wake()
    assert (await soon(worker(idle))).done()
    second = await worker(idle)
    assert not second.done()
    second.cancel()


async def test_a_reserved_worker_gets_its_export(idle: IdleWorkers) -> None:
    first, second = await worker(idle), await worker(idle)
    with idle.reserved() as reserved:
        assert reserved is not None
        idle.wake()
        assert await soon(second) is None  # the other one
        assert not idle.free
        reserved.fill(*BEGUN)
    assert await soon(first) == BEGUN


async def test_a_worker_whose_reservation_is_not_filled_is_woken(idle: IdleWorkers) -> None:
    first, second = await worker(idle), await worker(idle)
    with idle.reserved():
        pass
    assert await soon(first) is None
    with pytest.raises(ZeroDivisionError), idle.reserved():
        1 / 0  # noqa: B018
    assert await soon(second) is None


async def test_no_worker_is_reserved_while_all_are_busy_or_the_source_is_away(
    idle: IdleWorkers, gate: SourceGate
) -> None:
    with idle.reserved() as reserved:
        assert reserved is None
    task = await worker(idle)
    gate.went_away("no connection")
    assert idle.any
    assert not idle.free
    with idle.reserved() as reserved:
        assert reserved is None
    assert not task.done()
    task.cancel()


async def test_a_cancelled_worker_is_not_idle(idle: IdleWorkers) -> None:
    cancelled, other = await worker(idle), await worker(idle)
    cancelled.cancel()
    idle.wake()
    assert await soon(other) is None
    assert not idle.any
    with idle.reserved() as reserved:
        assert reserved is None


async def test_a_worker_that_is_cancelled_while_it_is_reserved_takes_no_export(idle: IdleWorkers) -> None:
    task = await worker(idle)
    with idle.reserved() as reserved:
        assert reserved is not None
        task.cancel()
        reserved.fill(*BEGUN)
    await let_the_loop_run()
    assert task.cancelled()
