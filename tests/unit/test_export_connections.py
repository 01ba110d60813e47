"""EXPORT_CONNECTIONS=auto: the number by the cores, the memory and the connections of the database."""

import msgspec
import pytest

from streamer.budget import MB, budget, total
from streamer.config import AUTO, Settings, read_settings
from streamer.server.export_connections import HEALTH_CHECK, chosen_by_machine, limits

SETTINGS = read_settings({"DATABASE_URL": "postgresql://127.0.0.1:1/unused"})
GB = 1024 * MB
ENOUGH = GB


def needed(connections: int, **settings: int) -> int:
    """Bytes of memory for so many connections per export."""
    changed = msgspec.structs.replace(SETTINGS, export_connections=connections, **settings)
    return total(budget(changed)) + HEALTH_CHECK


def test_auto_is_the_default() -> None:
    assert SETTINGS.export_connections == AUTO


@pytest.mark.parametrize(("cores", "expected"), [(1, 2), (2, 2), (3, 3), (6, 6), (8, 8), (64, 8)])
def test_a_connection_for_each_core_but_at_least_two_and_at_most_eight(cores: int, expected: int) -> None:
    assert limits(SETTINGS, cores=cores, memory=ENOUGH).connections == expected


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (64 * MB, 2),
        (150 * MB, 2),
        (needed(3) - 1, 2),
        (needed(3), 3),
        (needed(5), 5),
        (needed(6) - 1, 5),
        (64 * GB, 8),
    ],
)
def test_more_than_two_only_where_the_sum_fits_into_the_memory(memory: int, expected: int) -> None:
    assert limits(SETTINGS, cores=64, memory=memory).connections == expected


def test_other_settings_need_the_memory_first() -> None:
    large_rows = msgspec.structs.replace(SETTINGS, max_row_size=16 * MB)
    assert limits(large_rows, cores=64, memory=needed(4)).connections == 2


@pytest.mark.parametrize(("free", "expected"), [(None, 8), (100, 8), (24, 8), (23, 7), (6, 2), (5, 1), (0, 1), (-4, 1)])
def test_database_must_allow_them_to_every_concurrent_export(free: int | None, expected: int) -> None:
    assert SETTINGS.max_concurrent_exports == 3
    assert limits(SETTINGS, cores=64, memory=ENOUGH, free=free).connections == expected


@pytest.mark.parametrize(
    ("free", "sentence"),
    [
        (20, "cores allow 4, memory 8, the database allows 6"),
        (-1, "cores allow 4, memory 8, the database allows 0"),
        (None, "cores allow 4, memory 8, the database does not tell"),
    ],
)
def test_limits_say_what_each_of_them_allows(free: int | None, sentence: str) -> None:
    assert str(limits(SETTINGS, cores=4, memory=ENOUGH, free=free)) == sentence


def test_number_that_is_set_stays() -> None:
    settings: Settings = msgspec.structs.replace(SETTINGS, export_connections=5)
    assert chosen_by_machine(settings) is settings
