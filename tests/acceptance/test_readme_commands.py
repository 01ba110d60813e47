"""Every block of sh and Python in README.md and the documentation works when pasted, but for those in NOT_RUN."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.conftest import Server
from tests.docs.blocks import Block, all_blocks, in_language
from tests.docs.not_run import NOT_RUN

PROGRAMS = Path(sys.executable).parent
ADDRESS = "http://127.0.0.1:8080"  # in every block
BLOCKS = [block for block in all_blocks() if block.text.rstrip() not in NOT_RUN]
START = f"EXPORT=$(curl -fsS -X POST {ADDRESS}/exports/csv | grep -oE '[0-9a-f-]{{36}}' | head -n 1)\n"


@pytest.mark.parametrize("block", in_language(BLOCKS, "sh"), ids=str)
async def test_commands_succeed(block: Block, server: Server, tmp_path: Path) -> None:
    script = "set -e -o pipefail\n" + (START + block.text).replace(ADDRESS, server.url)
    await succeeds("bash", "-c", script.replace(".venv/bin", str(PROGRAMS)), at=server, folder=tmp_path)


@pytest.mark.parametrize("block", in_language(BLOCKS, "python"), ids=str)
async def test_python_runs(block: Block, server: Server, tmp_path: Path) -> None:
    """A block that awaits at the top runs as it does in `python -m asyncio`."""
    text = block.text.replace(ADDRESS, server.url)
    await succeeds(sys.executable, "-c", text if _compiles(text) else _in_a_loop(text), at=server, folder=tmp_path)


def _compiles(text: str) -> bool:
    try:
        compile(text, "block", "exec")
    except SyntaxError:
        return False
    return True


def _in_a_loop(text: str) -> str:
    body = "".join(f"    {line}\n" for line in text.splitlines())
    return f"import asyncio\nasync def main():\n{body}\nasyncio.run(main())"


async def succeeds(*command: str, at: Server, folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
            "STREAMER_URL": at.url,
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
