"""The allocator of the real process: one arena, whatever its threads have done."""

import platform
import re
from pathlib import Path

import aiohttp
import pytest

from tests.exporting import create
from tests.memory.confined import confined

HEAP = 64 * 1024 * 1024  # bytes: so much is reserved for each further arena of a thread, at a multiple of it
MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ 00:00 0 *$", re.MULTILINE)


def heaps_of_threads(pid: int) -> int:
    """Arenas beside the first: memory without a name that begins at a multiple of `HEAP`, and the rest reserved."""
    found = [(int(start, 16), int(end, 16), access) for start, end, access in _mappings(pid)]
    reserved = {start: end for start, end, access in found if access == "---p"}
    return sum(
        start % HEAP == 0 and access == "rw-p" and reserved.get(end) == start + HEAP for start, end, access in found
    )


def _mappings(pid: int) -> list[tuple[str, str, str]]:
    return MAPPING.findall(Path(f"/proc/{pid}/maps").read_text())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another one")
async def test_the_threads_of_the_server_share_one_arena(
    spool: Path, database: str, source_url: str, session: aiohttp.ClientSession
) -> None:
    async with confined(spool, database, source_url) as server:
        exports = [await create(session, server.url) for _ in range(3)]
        for export in exports:
            async with session.get(export.download, headers={"Accept-Encoding": "gzip"}) as response:
                await response.read()
        assert server.threads() > 5
        assert heaps_of_threads(server.pid) == 0
