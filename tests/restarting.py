"""A PostgreSQL of a test's own, which is stopped as by a crash and started again, and a standby of one."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from streamer.embedded import embedded_postgres, start_server
from tests.conftest import folder_for_postgres
from tests.polling import until
from tests.programs import PSQL

BASEBACKUP = PSQL.with_name("pg_basebackup")


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
        await asyncio.to_thread(start_server, self.files)


@contextmanager
def own_postgres() -> Iterator[OwnPostgres]:
    with folder_for_postgres() as folder, embedded_postgres(folder / "data") as url:
        yield OwnPostgres(folder / "data", url)


def back_up(primary: str, copy: Path, owner: int) -> None:
    """A standby's folder, as its administrator makes it."""
    copy.mkdir(mode=0o700)
    os.chown(copy, owner, -1)
    command = BASEBACKUP, "-d", primary, "-D", copy, "--checkpoint=fast", "--no-sync"
    subprocess.run(command, check=True, user=owner, cwd="/")
    for lock in copy.glob(".s.PGSQL.*.lock"):  # the primary's, whose socket is in its folder too
        lock.unlink()
    (copy / "standby.signal").touch()
    with (copy / "postgresql.conf").open("a") as configuration:
        configuration.write(f"primary_conninfo = '{primary}'\n")
