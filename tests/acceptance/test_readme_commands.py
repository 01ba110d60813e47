"""Every curl command of the README works when it is pasted, and every command of the client."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from tests.conftest import Server

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SHELL = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
BLOCKS = [block for block in SHELL if re.search("curl|streamer (pull|export)", block)]
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
START = "EXPORT=$(curl -fsS -X POST http://127.0.0.1:8080/exports/csv | grep -oE '[0-9a-f-]{36}' | head -n 1)\n"


def test_the_readme_has_at_least_five_curl_commands() -> None:
    assert sum(line.count("curl ") for block in BLOCKS for line in block.splitlines()) >= 5


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block{number}" for number in range(len(BLOCKS))])
async def test_commands_of_the_readme_succeed(block: str, server: Server, tmp_path: Path) -> None:
    script = "set -e -o pipefail\n" + (START + block).replace("http://127.0.0.1:8080", server.url)
    await succeeds(
        "bash", "-c", script.replace(".venv/bin", str(Path(sys.executable).parent)), at=server, folder=tmp_path
    )


@pytest.mark.parametrize("block", PYTHON, ids=[f"block{number}" for number in range(len(PYTHON))])
async def test_python_of_the_readme_runs(block: str, server: Server, tmp_path: Path) -> None:
    """What awaits runs as it does in `python -m asyncio`."""
    body = "".join(f"    {line}\n" for line in block.splitlines())
    script = f"import asyncio\nasync def main():\n{body}\nasyncio.run(main())"
    await succeeds(
        sys.executable, "-c", script.replace("http://127.0.0.1:8080", server.url), at=server, folder=tmp_path
    )


async def succeeds(*command: str, at: Server, folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, "STREAMER_URL": at.url, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
