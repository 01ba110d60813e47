"""A PostgreSQL of a test's own, which is stopped as by a crash and started again."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from streamer.embedded import embedded_postgres, started
from tests.conftest import folder_for_postgres
from tests.exporting import until


@dataclass(frozen=True)
class OwnPostgres:
    files: Path
    url: str

    async def stop(self) -> None:
        """As `pg_ctl stop -m immediate`."""
        pid_file = self.files / "postmaster.pid"
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)

        async def stopped() -> bool:
            return not pid_file.exists()

        await until(stopped, "PostgreSQL has stopped")

    async def start(self) -> None:
        await asyncio.to_thread(started, self.files)


@contextmanager
def own_postgres() -> Iterator[OwnPostgres]:
    with folder_for_postgres() as folder, embedded_postgres(folder / "data") as url:
        yield OwnPostgres(folder / "data", url)
