"""The real server in 150 MB under a load of everything, for long, and whether its memory has stopped growing.

    python -m tests.memory.soak --minutes 60 --cursor auto --samples soak.jsonl --plot soak.svg
    python -m tests.memory.soak --read soak.jsonl --plot soak.svg

The first runs a soak on an embedded PostgreSQL of its own; a sample of each second is written to the file at once. The
second tells of such a file, also while the soak is running.
"""

import argparse
import asyncio
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import aiohttp
import msgspec

from streamer.embedded import embedded_postgres
from tests.conftest import folder_for_postgres
from tests.memory.confined import HEADINGS, Confined, Used, confined
from tests.memory.plateau import Moment, picture, read, told
from tests.memory.visits import DATASETS, Visitors, prepare

INTERVAL = 1.0  # seconds between two samples
VISITORS = 12  # at once
SHARE = 0.4  # of a core, that the server may use on average
ROOT = Path(__file__).parents[2]


async def soak(
    database: str, spool: Path, *, seconds: float, cursor: str, share: float, write: Callable[[Moment], object]
) -> tuple[Used, Visitors]:
    """Gives what the server used, and who visited it. The database must be empty."""
    await prepare(database)
    settings = {"DATASETS": DATASETS, "EXPORT_METHOD": cursor, "EXPORT_TTL": "5m", "SPOOL_MAX_BYTES": "300MB"}
    timeout = aiohttp.ClientTimeout(total=None, sock_read=120)
    async with (
        confined(spool, database, database, **settings) as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session,
    ):
        visitors = Visitors(server, session, share)
        sampler = asyncio.create_task(_sample(server, visitors, write))
        try:
            await visitors.come(seconds, VISITORS)
        finally:
            sampler.cancel()
            await asyncio.wait({sampler})
        return server.used(), visitors


async def _sample(server: Confined, visitors: Visitors, write: Callable[[Moment], object]) -> None:
    began = monotonic()
    while True:
        await asyncio.sleep(INTERVAL)
        found = server.sample()
        write(
            Moment(
                at=monotonic() - began,
                rss=server.rss(),
                anonymous=found.anonymous,
                kernel=found.kernel,
                sockets=found.sockets,
                cpu=server.cpu(),
                visits=visitors.made.total(),
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--cursor", default="auto")
    parser.add_argument("--share", type=float, default=SHARE, help="of a core, that the server may use on average")
    parser.add_argument("--samples", type=Path, help="a file for them, one a line")
    parser.add_argument("--read", type=Path, help="tell of the samples of this file, and run nothing")
    parser.add_argument("--plot", type=Path, help="an SVG")
    asked = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where the shell has it ignored
        signal.signal(number, signal.default_int_handler)
    moments = read(asked.read) if asked.read else _run(asked)
    print(told(moments))
    if asked.plot:
        asked.plot.write_text(picture(moments, f"streamer serve, {moments[-1].at / 60:.0f} minutes"))


def _run(asked: argparse.Namespace) -> list[Moment]:
    moments: list[Moment] = []
    with (
        folder_for_postgres() as folder,
        embedded_postgres(folder / "data") as url,
        tempfile.TemporaryDirectory(dir=ROOT / "spool") as spool,
        (asked.samples or folder / "samples").open("wb", buffering=0) as file,
    ):

        def write(moment: Moment) -> None:
            moments.append(moment)
            file.write(msgspec.json.encode(moment) + b"\n")

        used, visitors = asyncio.run(
            soak(url, Path(spool), seconds=60 * asked.minutes, cursor=asked.cursor, share=asked.share, write=write)
        )
    print(HEADINGS, used, dict(visitors.made), *visitors.wrong, sep="\n")
    return moments


if __name__ == "__main__":
    main()
