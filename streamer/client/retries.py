"""How long a client goes on trying. A byte that comes begins the count anew."""

from dataclasses import dataclass

import tenacity

from streamer.client.errors import GaveUp, Transient
from streamer.client.progress import ProgressListener

FIRST = 0.5  # seconds: the first wait is at most so long, and each one after it at most twice as long
MAX_RETRY_AFTER = 600.0  # seconds: a server that names a later time is asked again then


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """`tries` in a row may bring nothing; each wait before the next is drawn by lot, and at most `longest` seconds.

    A server that names a time by Retry-After is not asked before it, but after 10 minutes at the latest. A connection
    on which nothing comes for `silence` seconds is given up for a new one, unless the server says that there is nothing
    yet.
    """

    attempts: int = 10
    max_backoff: float = 30.0
    read_timeout: float = 30.0

    def retrying(self, watcher: ProgressListener) -> tenacity.AsyncRetrying:
        """Calls what it is given until that returns. Raises GaveUp after the last try."""
        return tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Transient),
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=self._wait,
            before_sleep=lambda state: _say(state, watcher),
            retry_error_callback=_give_up,
        )

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """Drawn between nothing and a limit that doubles: a crowd that was cut off does not come back as one."""
        drawn = tenacity.wait_random_exponential(multiplier=FIRST, max=self.max_backoff)(state)
        failure = _failure(state)
        return drawn + min(failure.retry_after or 0.0, MAX_RETRY_AFTER)


def _failure(state: tenacity.RetryCallState) -> Transient:
    failure = state.outcome.exception() if state.outcome else None
    assert isinstance(failure, Transient)
    return failure


def _say(state: tenacity.RetryCallState, watcher: ProgressListener) -> None:
    failure = _failure(state)
    named = failure.retry_after or 0.0
    limited = f"; Retry-After names {named:.0f} s, and {MAX_RETRY_AFTER:.0f} s is the limit"
    watcher.waiting(f"{failure}{limited if named > MAX_RETRY_AFTER else ''}", state.upcoming_sleep)


def _give_up(state: tenacity.RetryCallState) -> None:
    failure = _failure(state)
    raise GaveUp(f"{failure}; gave up after {state.attempt_number} tries") from failure
