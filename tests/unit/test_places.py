"""Places for downloads: never more than there are, never lost, and a fair share of the kernel's memory for each."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.errors import Unavailable
from streamer.http.places import LEAST_SHARE, TCP_NOTSENT_LOWAT, UNSENT, Places, let_wait

MANY = 3000  # more followers than LEAST_SHARE has room for in UNSENT


def take(places: Places, stack: ExitStack) -> None:
    stack.enter_context(places.one())


@pytest.mark.parametrize("capacity", [1, 2, 2000])
def test_one_more_than_there_are_places_is_told_to_come_back(capacity: int) -> None:
    places = Places(capacity)
    with ExitStack() as stack:
        for _ in range(capacity):
            take(places, stack)
        for _ in range(3):
            with pytest.raises(Unavailable, match="too many downloads") as refused, places.one():
                pytest.fail("there was no place left")
            assert refused.value.retry_after is not None
            assert refused.value.retry_after > 0


@pytest.mark.parametrize("leaving", [None, RuntimeError("broken"), KeyboardInterrupt()], ids=str)
def test_a_place_is_free_again_however_it_is_left(leaving: BaseException | None) -> None:
    places = Places(1)
    for _ in range(3):
        with suppress(RuntimeError, KeyboardInterrupt), places.one():
            if leaving is not None:
                raise leaving


def test_a_refused_download_takes_no_place_with_it() -> None:
    places = Places(1)
    with places.one():
        for _ in range(3):
            with pytest.raises(Unavailable), places.one():
                pass
    with places.one():
        pass


def shares() -> Iterator[int]:
    """For 0, 1, 2 … downloads."""
    places = Places(MANY)
    with ExitStack() as stack:
        yield places.share
        for _ in range(MANY):
            take(places, stack)
            yield places.share


def test_shares_together_are_within_the_limit_until_each_has_the_least() -> None:
    for downloads, share in enumerate(shares()):
        assert share >= LEAST_SHARE
        assert downloads * share <= UNSENT or share == LEAST_SHARE


def test_no_share_is_less_than_half_of_what_could_be_given() -> None:
    for downloads, share in enumerate(shares()):
        assert share > UNSENT // max(1, downloads) // 2 or share == LEAST_SHARE


def test_a_share_changes_with_few_of_the_followers_that_come() -> None:
    found = list(shares())
    assert found == sorted(found, reverse=True)
    assert len(set(found)) <= (UNSENT // LEAST_SHARE).bit_length()


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=60))
def test_a_share_depends_on_who_is_there_and_not_on_who_was(steps: list[bool]) -> None:
    """True: somebody comes; False: somebody leaves."""
    by_number = list(islice(shares(), len(steps) + 1))
    places, taken = Places(MANY), list[ExitStack]()
    for comes in steps:
        if comes:
            taken.append(ExitStack())
            take(places, taken[-1])
        elif taken:
            taken.pop().close()
        assert places.share == by_number[len(taken)]
    for stack in taken:
        stack.close()


def taken_by_the_kernel(limit: int | None) -> int:
    """How many bytes a socket takes for a peer that reads nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(listener.getsockname())
        writer, _ = listener.accept()
        with writer:
            if limit is not None:
                let_wait(writer, limit)
                assert writer.getsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT) == limit
            writer.settimeout(0.2)  # what can be taken is taken: a timeout says that nothing more can
            taken = 0
            with suppress(TimeoutError):
                while taken < 64 * 1024 * 1024:
                    taken += writer.send(bytes(16 * 1024))
            return taken


def test_a_socket_takes_about_its_share_for_a_client_that_reads_nothing() -> None:
    unlimited, limited = taken_by_the_kernel(None), taken_by_the_kernel(LEAST_SHARE)
    assert limited <= LEAST_SHARE + 256 * 1024
    assert limited < unlimited / 2
