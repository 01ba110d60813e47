"""The time for which an export may hold its snapshot."""

import asyncio

import pytest

from streamer.errors import ExportFailure
from streamer.source.session.time_limit import TimeLimit
from tests.unit.clock import Clock

SENTENCE = r"^the rows were read for longer than EXPORT_MAX_TIME allows, 1h$"


async def test_work_is_cancelled_when_the_time_is_over(clock: Clock) -> None:
    limit = TimeLimit(3600)

    async def work() -> None:
        async with limit.enforced():
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await clock.advance(3599)
    assert not working.done()
    await clock.advance(1)
    with pytest.raises(ExportFailure, match=SENTENCE) as failure:
        await working
    assert failure.value.__cause__ is None


async def test_time_runs_from_the_limit_on_and_across_contexts(clock: Clock) -> None:
    limit = TimeLimit(3600)
    async with limit.enforced():
        await clock.advance(3599)
    await clock.advance(1)
    with pytest.raises(ExportFailure, match=SENTENCE):
        async with limit.enforced():
            await asyncio.Event().wait()


async def test_time_between_two_contexts_interrupts_nothing(clock: Clock) -> None:
    limit = TimeLimit(3600)
    async with limit.enforced():
        pass
    await clock.advance(7200)


async def test_failure_because_of_the_cancellation_is_the_cause(clock: Clock) -> None:
    limit = TimeLimit(3600)

    async def work() -> None:
        async with limit.enforced():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ConnectionResetError("the connection was closed by the cancellation") from None

    working = asyncio.create_task(work())
    await clock.advance(3600)
    with pytest.raises(ExportFailure, match=SENTENCE) as failure:
        await working
    assert isinstance(failure.value.__cause__, ConnectionResetError)


async def test_failure_before_the_end_of_the_time_stays_as_it_is(clock: Clock) -> None:
    async def work() -> None:
        async with TimeLimit(3600).enforced():
            await clock.advance(3599)
            raise TimeoutError("of the disk")

    with pytest.raises(TimeoutError, match="of the disk"):
        await work()


async def test_cancellation_by_another_task_stays_a_cancellation(clock: Clock) -> None:
    async def work() -> None:
        async with TimeLimit(3600).enforced():
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await clock.advance(1)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


async def test_there_is_no_limit_without_a_number_of_seconds(clock: Clock) -> None:
    async with TimeLimit().enforced():
        await clock.advance(10 * 365 * 24 * 3600)
