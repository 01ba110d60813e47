"""Every curl command of the README works when it is pasted."""

import asyncio
import re
from pathlib import Path

import pytest

from tests.conftest import Server

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = [block for block in re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL) if "curl" in block]
START = "EXPORT=$(curl -fsS -X POST http://127.0.0.1:8080/exports/csv | grep -oE '[0-9a-f-]{36}' | head -n 1)\n"


def test_the_readme_has_at_least_five_curl_commands() -> None:
    assert sum(line.count("curl ") for block in BLOCKS for line in block.splitlines()) >= 5


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block{number}" for number in range(len(BLOCKS))])
async def test_commands_of_the_readme_succeed(block: str, server: Server, tmp_path: Path) -> None:
    script = "set -e -o pipefail\n" + (START + block).replace("http://127.0.0.1:8080", server.url)
    bash = await asyncio.create_subprocess_exec(
        "bash", "-c", script, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await bash.communicate()
    assert bash.returncode == 0, errors.decode()
