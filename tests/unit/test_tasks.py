"""Background tasks: references, and a log of unexpected errors."""

import asyncio
import gc

import pytest

from streamer.errors import NotFound
from streamer.jobs.tasks import Tasks, all_ended


async def fail(error: Exception) -> None:
    raise error


async def test_task_without_another_reference_survives_a_collection() -> None:
    tasks, done = Tasks(), asyncio.Event()

    async def work() -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(waiting.set_result, None)
        await waiting
        done.set()

    tasks.spawn(work(), "work")
    gc.collect()
    async with asyncio.timeout(10):
        await done.wait()


async def test_unexpected_error_is_logged_with_the_name_of_the_task(caplog: pytest.LogCaptureFixture) -> None:
    task = Tasks().spawn(fail(RuntimeError("a bug")), "leases")
    await all_ended([task])
    assert [record.message for record in caplog.records] == ["leases ended badly"]
    assert caplog.records[0].exc_info is not None


async def test_error_of_a_client_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    task = Tasks().spawn(fail(NotFound("there is no export")), "cancel")
    await all_ended([task])
    assert caplog.records == []
    assert isinstance(task.exception(), NotFound)


async def test_cancelled_task_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    task = Tasks().spawn(asyncio.Event().wait(), "worker 0")
    await asyncio.sleep(0)
    task.cancel()
    await all_ended([task])
    assert task.cancelled()
    assert caplog.records == []


async def test_tasks_go_on_when_the_wait_for_them_is_cancelled() -> None:
    tasks, release = Tasks(), asyncio.Event()
    task = tasks.spawn(release.wait(), "release")
    waiting = asyncio.create_task(all_ended([task]))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert not task.done()
    release.set()
    await all_ended([task])
    assert task.result() is True


async def test_no_tasks_have_ended_at_once() -> None:
    await all_ended([])


async def test_task_is_kept_until_it_has_ended() -> None:
    """The event loop has only a weak reference to it."""
    tasks, release = Tasks(), asyncio.Event()
    task = tasks.spawn(release.wait(), "work")
    assert task in gc.get_referents(tasks._tasks)
    release.set()
    await all_ended([task])
    await asyncio.sleep(0)
    assert tasks._tasks == set()
