"""The budget of connections to the source."""

from contextlib import ExitStack, suppress
from typing import cast

import pytest

from streamer.postgres.driver import Pool
from streamer.source.session.connections import Connections


class SizedPool:
    """In the place of a pool."""

    def __init__(self, size: int) -> None:
        self._size = size

    def get_max_size(self) -> int:
        return self._size


def connections(size: int, leaders: int) -> Connections:
    return Connections(cast("Pool", SizedPool(size)), leaders=leaders, workers=2)


@pytest.mark.parametrize(("size", "leaders", "spare"), [(5, 3, 2), (3, 3, 0), (1, 1, 0)])
def test_connections_beyond_those_of_the_leaders_are_granted_and_no_more(size: int, leaders: int, spare: int) -> None:
    budget = connections(size, leaders)
    with ExitStack() as stack:
        granted = [stack.enter_context(budget.try_reserve()) for _ in range(spare + 2)]
    assert granted == [True] * spare + [False] * 2


def test_reserved_connection_is_spare_again_after_its_context_however_that_ends() -> None:
    budget = connections(2, 1)
    with suppress(ConnectionResetError), budget.try_reserve() as reserved:
        assert reserved
        raise ConnectionResetError
    with budget.try_reserve() as reserved:
        assert reserved


def test_refused_reservation_gives_nothing_back() -> None:
    budget = connections(2, 1)
    with budget.try_reserve(), budget.try_reserve() as second:
        assert not second
    with budget.try_reserve() as first, budget.try_reserve() as second:
        assert (first, second) == (True, False)


def test_short_queries_use_the_pool_of_the_exports_if_they_have_none() -> None:
    pool = cast("Pool", SizedPool(1))
    assert Connections(pool, leaders=1, workers=0).beside is pool
