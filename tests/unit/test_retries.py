"""Retries: full jitter, Retry-After, and the last attempt."""

import asyncio

import pytest
from tenacity import RetryCallState

from streamer.client.client import time_limit
from streamer.client.errors import GaveUp, Refused, Transient
from streamer.client.progress import ProgressListener
from streamer.client.retries import RetryPolicy

MAX_BACKOFF = 0.01  # seconds


class Waits(ProgressListener):
    def __init__(self) -> None:
        self.seen: list[float] = []
        self.reasons: list[str] = []

    def waiting(self, reason: str, seconds: float) -> None:
        self.seen.append(seconds)
        self.reasons.append(reason)


async def fails(waits: Waits, *failures: Exception, attempts: int = 5) -> str:
    """Returns the result of work that raises these failures, and then succeeds."""
    left = list(failures)

    async def work() -> str:
        if left:
            raise left.pop(0)
        return "done"

    result: str = await RetryPolicy(attempts=attempts, max_backoff=MAX_BACKOFF).retrying(waits)(work)
    return result


async def test_a_transient_failure_is_retried() -> None:
    waits = Waits()
    assert await fails(waits, *[Transient("not yet")] * 4) == "done"
    assert len(waits.seen) == 4
    assert all(0 <= seconds <= MAX_BACKOFF for seconds in waits.seen)


async def test_the_last_failure_is_the_reason_for_giving_up() -> None:
    with pytest.raises(GaveUp, match=r"^the last; gave up after 2 tries$"):
        await fails(Waits(), Transient("the first"), Transient("the last"), attempts=2)


async def test_a_retry_waits_for_retry_after() -> None:
    waits = Waits()
    await fails(waits, Transient("busy", retry_after=0.05))
    assert 0.05 <= waits.seen[0] <= 0.05 + MAX_BACKOFF


@pytest.mark.parametrize("requested", [601.0, 86_400.0, 999_999_999.0, 2.5e11])
def test_a_long_retry_after_is_limited_and_reported(requested: float) -> None:
    waits = Waits()
    retrying = RetryPolicy(max_backoff=MAX_BACKOFF).retrying(waits)
    state = RetryCallState(retrying, None, (), {})
    state.set_exception((Transient, Transient("busy", retry_after=requested), None))
    state.upcoming_sleep = retrying.wait(state)
    assert retrying.before_sleep
    retrying.before_sleep(state)
    assert 600.0 <= waits.seen[0] <= 600.0 + MAX_BACKOFF
    assert waits.reasons == [f"busy; the server asks to wait {requested:.0f} s, the client waits 600 s"]


async def test_any_other_error_is_raised_at_once() -> None:
    waits = Waits()
    with pytest.raises(Refused):
        await fails(waits, Refused("no"))
    assert waits.seen == []


async def test_a_time_limit_that_ends_a_wait_names_the_failure_before_it() -> None:
    """The server asks to wait for longer than there is time."""
    with pytest.raises(GaveUp, match=r"^not finished within 0\.05 s: the server is busy$"):
        async with time_limit(0.05):
            await fails(Waits(), Transient("the server is busy", retry_after=60.0))


async def test_a_time_limit_without_a_failure_names_none() -> None:
    with pytest.raises(GaveUp, match=r"^not finished within 0\.05 s$"):
        async with time_limit(0.05):
            await asyncio.Event().wait()
