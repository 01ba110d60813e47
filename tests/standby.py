"""A primary and its hot standby, two embedded servers."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from streamer.embedded import embedded_postgres
from tests.conftest import connected, folder_for_postgres
from tests.polling import until
from tests.programs import PSQL
from tests.restarting import back_up


@dataclass(frozen=True)
class Pair:
    """The URLs of a primary and of its standby."""

    primary: str
    standby: str

    async def caught_up(self) -> None:
        """Waits until the standby has replayed all that the primary has written."""
        async with connected(self.primary) as primary, connected(self.standby) as standby:
            written = await primary.fetchval("SELECT pg_current_wal_lsn()::text")

            async def replayed() -> bool:
                return bool(await standby.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", written))

            await until(replayed, "the standby has caught up")


@contextmanager
def paired(sql: str = "") -> Iterator[Pair]:
    """The standby is made when the primary has run `sql`."""
    with folder_for_postgres() as folder, embedded_postgres(folder / "primary") as primary:
        owner = (folder / "primary").stat().st_uid  # not ours if we are root
        subprocess.run([PSQL, "-q", "-v", "ON_ERROR_STOP=1", primary, "-c", sql], check=True)
        copy = folder / "standby"
        back_up(primary, copy, owner)
        with embedded_postgres(copy) as standby:
            yield Pair(primary, standby)
