"""The memory budget: the default settings fit into the container, each number follows its setting, and it can be read.

That the sizes are those of the real buffers is measured in tests/memory.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from streamer.budget import FOLLOWER, MB, SOCKET, Item, budget, table, total
from streamer.cli import main
from streamer.config import AUTO, Settings, read_settings
from streamer.http.net.send_buffers import max_queued_bytes
from streamer.server.export_connections import chosen_by_machine

CONTAINER = 150 * 1024 * 1024  # bytes
UNUSED_URL = "postgresql://127.0.0.1:1/unused"

# The largest number of buffers by the prefix of their names; for all others the default number.
COUNTS: dict[str, Callable[[Settings], int]] = {
    "downloads": lambda settings: settings.max_downloads,
    "compressions": lambda settings: settings.compressions,
    "waiting exports": lambda settings: settings.max_queued_exports,
    "exports: ": lambda settings: settings.max_concurrent_exports,
    "source connections beyond the first": lambda settings: (
        settings.max_concurrent_exports * (settings.export_connections - 1)
    ),
    "source connections: ": lambda settings: settings.max_concurrent_exports * settings.export_connections,
    "large rows": lambda settings: settings.max_concurrent_exports * settings.export_connections + 1,
}
COUNTING = ("max_downloads", "compressions", "max_queued_exports", "max_concurrent_exports", "export_connections")
FREE = {
    "api_port": 80,
    "abandoned_export_timeout": 3600.0,
    "download_stall_timeout": 3600.0,
    "database_startup_timeout": 3600.0,
    "source_wait": 3600.0,
    "export_ttl": 3600.0,
    "export_max_time": 3600.0,
    "history_ttl": 3600.0,
    "spool_disk_reserve": 2 * 1024**3,
    "shutdown_timeout": 30.0,
}

DEFAULTS = read_settings({"DATABASE_URL": UNUSED_URL, "EXPORT_CONNECTIONS": "2"})


def changed(**settings: object) -> Settings:
    return msgspec.structs.replace(DEFAULTS, **settings)


def multiplied(setting: str, factor: int) -> Settings:
    return changed(**{setting: factor * getattr(DEFAULTS, setting)})


def counts_of(item: Item) -> Callable[[Settings], int]:
    return next((count for name, count in COUNTS.items() if item.name.startswith(name)), lambda settings: item.count)


def test_default_settings_fit_into_the_container() -> None:
    assert total(budget(DEFAULTS)) < CONTAINER


def test_every_item_has_a_name_of_its_own_a_size_and_a_count() -> None:
    items = budget(DEFAULTS)
    assert len({item.name for item in items}) == len(items)
    assert all(item.size > 0 < item.count for item in items)
    assert total(items) == sum(item.size * item.count for item in items)
    assert all(any(item.name.startswith(name) for item in items) for name in COUNTS)


@pytest.mark.parametrize("factor", [2, 7])
@pytest.mark.parametrize("setting", [setting for setting in COUNTING if setting != "max_downloads"])
def test_each_setting_raises_the_sum_by_its_own_items_only(setting: str, factor: int) -> None:
    more = multiplied(setting, factor)
    raised = sum(item.size * (counts_of(item)(more) - counts_of(item)(DEFAULTS)) for item in budget(DEFAULTS))
    assert total(budget(more)) - total(budget(DEFAULTS)) == raised > 0


@pytest.mark.parametrize("factor", [2, 7])
def test_more_followers_raise_the_sum_by_their_own_memory_and_their_send_buffers(factor: int) -> None:
    more = multiplied("max_downloads", factor)
    waiting = max_queued_bytes(more.max_downloads, SOCKET) - max_queued_bytes(DEFAULTS.max_downloads, SOCKET)
    own = FOLLOWER * (more.max_downloads - DEFAULTS.max_downloads)
    assert total(budget(more)) - total(budget(DEFAULTS)) == own + waiting > own > 0


def test_settings_count_together() -> None:
    settings = changed(max_concurrent_exports=5, export_connections=4, max_queued_exports=30, max_downloads=70)
    assert [item.count for item in budget(settings)] == [counts_of(item)(settings) for item in budget(DEFAULTS)]


def test_larger_row_counts_for_each_connection_and_once_more_while_it_is_assembled() -> None:
    (row,) = (item for item in budget(DEFAULTS) if "MAX_ROW_SIZE" in item.name)
    assert row.size == DEFAULTS.max_row_size
    larger = total(budget(multiplied("max_row_size", 2))) - total(budget(DEFAULTS))
    assert larger == row.size * row.count


@pytest.mark.parametrize(("setting", "value"), FREE.items())
def test_settings_that_cost_no_memory_change_nothing(setting: str, value: object) -> None:
    assert budget(changed(**{setting: value})) == budget(DEFAULTS)


def test_every_numeric_setting_is_counted_or_known_to_cost_nothing() -> None:
    numbers = {name for name in msgspec.structs.asdict(DEFAULTS) if isinstance(getattr(DEFAULTS, name), int | float)}
    assert numbers == {*COUNTING, "max_row_size", *FREE}


@pytest.mark.parametrize("setting", [*COUNTING, "max_row_size"])
def test_item_names_the_variable_of_its_count(setting: str) -> None:
    assert any(setting.upper() in item.name for item in budget(DEFAULTS))


def test_table_has_a_line_for_each_item_and_ends_with_the_sum() -> None:
    items = [Item("one", 3 * MB), Item("a thousand", MB // 2, 1000)]
    first, second, last = table(items).splitlines()
    assert first.split() == ["one", "1", "x", "3,072", "kB", "3.0", "MB"]
    assert second.split() == ["a", "thousand", "1000", "x", "512", "kB", "500.0", "MB"]
    assert last.split() == ["total", "503.0", "MB"]


def test_serve_with_budget_prints_it_and_starts_nothing(tmp_path: Path) -> None:
    """A start would wait for a database that is not there, and make the folder of the spool."""
    environment = {"PATH": os.environ["PATH"], "DATABASE_URL": UNUSED_URL, "COMPRESSIONS": "48"}
    command = [str(Path(sys.executable).with_name("streamer")), "serve", "--budget"]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=20, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    chosen = chosen_by_machine(changed(compressions=48, export_connections=AUTO))
    assert ended.stdout == table(budget(chosen)) + "\n"
    assert list(tmp_path.iterdir()) == []


def test_serve_with_budget_leaves_the_log_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", UNUSED_URL)
    handlers = list(logging.getLogger().handlers)
    assert CliRunner().invoke(main, ["serve", "--budget"]).exit_code == 0
    assert logging.getLogger().handlers == handlers


def test_serve_with_budget_refuses_a_wrong_setting_as_a_start_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", UNUSED_URL)
    monkeypatch.setenv("MAX_DOWNLOADS", "all")
    refused = CliRunner().invoke(main, ["serve", "--budget"])
    assert refused.exit_code == 1
    assert refused.output.startswith("streamer: MAX_DOWNLOADS must be ")
