"""The limit on large responses that wait for their clients."""

from contextlib import ExitStack, suppress

import pytest

from streamer.errors import Unavailable
from streamer.http.net.large_responses import MAX_WAITING, LargeResponses


def test_responses_beyond_the_limit_get_503_until_others_are_sent() -> None:
    responses = LargeResponses()
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(responses.reserve(MAX_WAITING // 4))
        with pytest.raises(Unavailable, match="too many large answers"), responses.reserve(1):
            pytest.fail("a byte beyond the limit was reserved")
    with responses.reserve(MAX_WAITING):
        pass


def test_single_response_may_exceed_the_limit() -> None:
    responses = LargeResponses()
    with responses.reserve(2 * MAX_WAITING), pytest.raises(Unavailable), responses.reserve(1):
        pytest.fail("a second response was reserved")


@pytest.mark.parametrize("error", [ConnectionResetError(), KeyboardInterrupt()], ids=["reset", "interrupt"])
def test_reservation_is_released_when_sending_fails(error: BaseException) -> None:
    responses = LargeResponses()
    for _ in range(3):
        with suppress(ConnectionResetError, KeyboardInterrupt), responses.reserve(MAX_WAITING):
            raise error
    with responses.reserve(MAX_WAITING), pytest.raises(Unavailable), responses.reserve(1):
        pytest.fail("the limit has changed")
