"""When a client retries a request, and when it gives up. Each byte that is received resets the count of attempts."""

import asyncio
from dataclasses import dataclass

import tenacity

from streamer.client.errors import GaveUp, Transient
from streamer.client.progress import ProgressListener

FIRST_BACKOFF = 0.5  # seconds: the upper limit of the first wait, which doubles with every attempt
MAX_RETRY_AFTER = 600.0  # seconds: the longest Retry-After that is waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a request is retried. Each byte that is received resets the count of attempts.

    Args:
        attempts: Gives up after this number of failed attempts in a row.
        max_backoff: The longest wait between two attempts, in seconds. Waits grow exponentially, with full jitter; a
            Retry-After of the server is added, up to 10 minutes.
        read_timeout: A connection that brings no byte for this number of seconds is replaced by a new one, unless the
            server confirms that the export has no further bytes yet.
    """

    attempts: int = 10
    max_backoff: float = 30.0
    read_timeout: float = 30.0

    def retrying(self, listener: ProgressListener) -> tenacity.AsyncRetrying:
        """Returns an object that calls a callable until it succeeds. It raises GaveUp after the last attempt."""
        waiting_for: list[Transient] = []  # the last failure

        def before_sleep(state: tenacity.RetryCallState) -> None:
            waiting_for[:] = [_failure(state)]
            _report(state, listener)

        return tenacity.AsyncRetrying(
            sleep=lambda seconds: _sleep(seconds, waiting_for[-1]),
            retry=tenacity.retry_if_exception_type(Transient),
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=self._wait,
            before_sleep=before_sleep,
            retry_error_callback=_give_up,
        )

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """Full jitter: clients that were disconnected together do not return together."""
        backoff = tenacity.wait_random_exponential(multiplier=FIRST_BACKOFF, max=self.max_backoff)(state)
        return backoff + min(_failure(state).retry_after or 0.0, MAX_RETRY_AFTER)


async def _sleep(seconds: float, failure: Transient) -> None:
    """If the wait is cancelled, as by a time limit, the failure that it followed is the cause."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError as error:
        raise error from failure


def _failure(state: tenacity.RetryCallState) -> Transient:
    failure = state.outcome.exception() if state.outcome else None
    assert isinstance(failure, Transient)
    return failure


def _report(state: tenacity.RetryCallState, listener: ProgressListener) -> None:
    failure = _failure(state)
    requested = failure.retry_after or 0.0
    limited = f"; the server asks to wait {requested:.0f} s, the client waits {MAX_RETRY_AFTER:.0f} s"
    listener.waiting(f"{failure}{limited if requested > MAX_RETRY_AFTER else ''}", state.upcoming_sleep)


def _give_up(state: tenacity.RetryCallState) -> None:
    failure = _failure(state)
    tries = "1 try" if state.attempt_number == 1 else f"{state.attempt_number} tries"
    raise GaveUp(f"{failure}; gave up after {tries}") from failure
