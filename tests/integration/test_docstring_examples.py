"""The examples in the docstrings of the client run as they are when they are pasted into a file."""

import asyncio
import re
import sys
import textwrap
from pathlib import Path

import pytest

from streamer import client
from streamer.client import Client, ProgressListener, export_to
from tests.conftest import Server


def example_of(docstring: str | None) -> str:
    """Returns the indented block that begins with an import."""
    assert docstring
    lines = docstring.splitlines()
    begin = next(number for number, line in enumerate(lines) if re.match(r" +(import|from) ", line))
    indent = len(lines[begin]) - len(lines[begin].lstrip())
    block = [line for line in lines[begin:] if not line.strip() or line.startswith(" " * indent)]
    return textwrap.dedent("\n".join(block))


@pytest.mark.parametrize(
    ("documented", "file"),
    [
        (client, "first.csv"),
        (Client, "users.csv"),
        (ProgressListener, "ten.csv"),
        (export_to, "first.csv"),
    ],
    ids=["package", "Client", "ProgressListener", "export_to"],
)
async def test_an_example_runs_as_it_is(server: Server, tmp_path: Path, documented: object, file: str) -> None:
    example = example_of(documented.__doc__).replace("http://127.0.0.1:8080", server.url)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", example), cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert (process.returncode, said) == (0, b"")
    assert (tmp_path / file).exists()
