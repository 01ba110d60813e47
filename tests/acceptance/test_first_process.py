"""`streamer serve` as the first process of a PID namespace, as in a container: it receives every signal.

The kernel keeps from a first process the signals for which it has no handler, so that what ends any other process does
nothing to this one. unshare(1) makes the namespace; it hears no signals itself while it waits for its child.
"""

import signal
import subprocess
from pathlib import Path

import aiohttp
import pytest

from tests.acceptance.process import streamer
from tests.exporting import create
from tests.gates import Gates

ALONE = ("unshare", "--pid", "--fork", "--kill-child")


def allowed() -> bool:
    try:
        return subprocess.run([*ALONE, "true"], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = pytest.mark.skipif(not allowed(), reason="no PID namespace can be made here")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_stops_the_first_process(
    tmp_path: Path, database: str, source_url: str, number: signal.Signals
) -> None:
    settings = {"DATABASE_URL": database, "SOURCE_DATABASE_URL": source_url, "API_PORT": "0"}
    async with streamer("serve", folder=tmp_path, environment=settings, started_by=ALONE) as process:
        await process.url()
        process.signal(number, group=True)
        assert await process.exit_code() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal_ends_the_first_process_at_once(
    tmp_path: Path, database: str, gates: Gates, session: aiohttp.ClientSession, number: signal.Signals
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 90_000)
    settings = {"DATABASE_URL": database, "API_PORT": "0", "DATASETS": "gated", "SHUTDOWN_TIMEOUT": "60s"}
    async with streamer("serve", folder=tmp_path, environment=settings, started_by=ALONE) as process:
        export = await create(session, await process.url(), dataset="gated")
        async with session.get(export.download) as follower:
            await follower.content.readexactly(10_000)
            await gates.reached("gated", 90_000)
            process.signal(number, group=True)
            await process.said("stopping")
            process.signal(number, group=True)
            assert await process.exit_code() == 128 + number
            with pytest.raises(aiohttp.ClientPayloadError):
                await follower.read()
