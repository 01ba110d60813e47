"""How long a client tries: drawn waits, the server's own word, and an end."""

import pytest
from tenacity import RetryCallState

from streamer.client.errors import GaveUp, Refused, Transient
from streamer.client.progress import ProgressListener
from streamer.client.retries import RetryPolicy

LONGEST = 0.01  # seconds


class Waits(ProgressListener):
    def __init__(self) -> None:
        self.seen: list[float] = []
        self.reasons: list[str] = []

    def waiting(self, reason: str, seconds: float) -> None:
        self.seen.append(seconds)
        self.reasons.append(reason)


async def fails(waits: Waits, *failures: Exception, tries: int = 5) -> str:
    """What comes of work that fails like this, and then does not."""
    left = list(failures)

    async def work() -> str:
        if left:
            raise left.pop(0)
        return "done"

    result: str = await RetryPolicy(attempts=tries, max_backoff=LONGEST).retrying(waits)(work)
    return result


async def test_what_is_over_in_a_moment_is_tried_again() -> None:
    waits = Waits()
    assert await fails(waits, *[Transient("not yet")] * 4) == "done"
    assert len(waits.seen) == 4
    assert all(0 <= seconds <= LONGEST for seconds in waits.seen)


async def test_the_last_failure_is_what_it_gave_up_for() -> None:
    with pytest.raises(GaveUp, match=r"^the last; gave up after 2 tries$"):
        await fails(Waits(), Transient("the first"), Transient("the last"), tries=2)


async def test_nobody_is_asked_before_the_time_that_he_names() -> None:
    waits = Waits()
    await fails(waits, Transient("busy", retry_after=0.05))
    assert 0.05 <= waits.seen[0] <= 0.05 + LONGEST


@pytest.mark.parametrize("named", [601.0, 86_400.0, 999_999_999.0, 2.5e11])
def test_a_time_that_is_too_far_away_is_limited_and_said(named: float) -> None:
    waits = Waits()
    retrying = RetryPolicy(max_backoff=LONGEST).retrying(waits)
    state = RetryCallState(retrying, None, (), {})
    state.set_exception((Transient, Transient("busy", retry_after=named), None))
    state.upcoming_sleep = retrying.wait(state)
    assert retrying.before_sleep
    retrying.before_sleep(state)
    assert 600.0 <= waits.seen[0] <= 600.0 + LONGEST
    assert waits.reasons == [f"busy; Retry-After names {named:.0f} s, and 600 s is the limit"]


async def test_anything_else_is_raised_at_once() -> None:
    waits = Waits()
    with pytest.raises(Refused):
        await fails(waits, Refused("no"))
    assert waits.seen == []
