"""The bytes of all spools: counted, updated, and compared with the limit."""

import pytest

from streamer.spool.space import Shortage, UsedSpace

HOUR = 3600.0  # seconds


def test_shortage_is_reduced_by_removed_files() -> None:
    assert Shortage(10, 3, 1).after([4]) == Shortage(6, 0, 0)
    assert not Shortage(10, 11, 2).after([4, 7])
    assert Shortage(10, 11).bytes == Shortage(11, 10).bytes == 11
    assert Shortage(files=1)
    assert Shortage(disk=1)
    assert not Shortage()


@pytest.mark.parametrize(
    ("limit", "used", "excess"), [(None, 10**15, 0), (10, 3, 0), (10, 9, 0), (10, 10, 1), (10, 15, 6)]
)
def test_excess_leaves_room_for_one_more_byte(limit: int | None, used: int, excess: int) -> None:
    space = UsedSpace(limit, HOUR)
    space.grow(used)
    assert space.excess == excess


def test_written_and_removed_bytes_are_summed_apart() -> None:
    space = UsedSpace(None, HOUR)
    for size in (100, -30, 50):
        space.grow(size)
    assert (space.bytes, space.written, space.removed) == (120, 150, 30)


def test_files_of_others_may_be_removed_without_a_negative_sum() -> None:
    space = UsedSpace(None, HOUR)
    space.grow(-30)
    assert space.bytes == 0


def test_count_excludes_files_removed_since_it_began() -> None:
    space = UsedSpace(None, HOUR)
    space.grow(-5)
    before = space.removed
    space.grow(-30)
    space.set_counted(100, removed_before=before)
    assert space.bytes == 70


def test_count_of_files_that_are_removed_by_now_is_no_negative_sum() -> None:
    space = UsedSpace(None, HOUR)
    space.grow(-30)
    space.set_counted(10, removed_before=0)
    assert space.bytes == 0


def test_count_is_stale_before_the_first_one_and_after_the_interval() -> None:
    space, always_stale, unlimited = UsedSpace(10, HOUR), UsedSpace(10, -1.0), UsedSpace(None, -1.0)
    assert space.is_stale
    for each in (space, always_stale, unlimited):
        each.set_counted(5, removed_before=0)
    assert not space.is_stale
    assert always_stale.is_stale
    assert not unlimited.is_stale
