"""README and documentation tell the truth: settings and the budget are those of the code, and every block is valid.

Blocks of sh and Python are run by tests/acceptance/test_readme_commands.py.
"""

import json
import re
import shutil
import subprocess
from ast import PyCF_ALLOW_TOP_LEVEL_AWAIT
from pathlib import Path

import msgspec
import pytest

from streamer.budget import budget, table
from streamer.config import Settings, described_settings, read_settings
from streamer.docs import read_page
from streamer.source.catalog.configuration import read_configuration
from tests.docs.blocks import Block, all_blocks, in_language
from tests.docs.not_run import NOT_RUN

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = all_blocks()
LANGUAGES = {"ini", "json", "nginx", "python", "sh", "sql", "text", "toml"}


def test_settings_in_the_readme_exist_and_the_essential_ones_are_among_them() -> None:
    table = README.partition("| setting |")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines() if row.startswith("| `") for name in _names(row.split("|")[1])}
    known = {setting.name: setting.essential for setting in described_settings()}
    assert {name for name, essential in known.items() if essential} <= named <= known.keys()


def test_defaults_in_the_readme_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([0-9]+)s? \|", README, re.MULTILINE)
    defaults = {field.encode_name: field.default for field in msgspec.structs.fields(Settings)}
    assert rows
    for name, default in rows:
        assert float(default) == defaults[name], name


def test_the_budget_in_the_documentation_is_that_of_the_default_settings_with_two_connections() -> None:
    settings = read_settings({"DATABASE_URL": "postgresql://nobody", "EXPORT_CONNECTIONS": "2"})
    assert f"```text\n{table(budget(settings))}\n```" in read_page("operations").text


def test_ci_runs_the_test_command_of_the_documentation() -> None:
    command = next(line for line in read_page("how-it-works").text.splitlines() if line.endswith("/pytest"))
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_block_names_its_language(block: Block) -> None:
    assert block.language in LANGUAGES


@pytest.mark.parametrize("block", in_language(BLOCKS, "python"), ids=str)
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec", flags=PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("block", in_language(BLOCKS, "sh"), ids=str)
def test_commands_can_be_parsed_by_the_shell(block: Block) -> None:
    checked = subprocess.run(["sh", "-n", "-c", block.text], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("block", in_language(BLOCKS, "json"), ids=str)
def test_json_can_be_parsed(block: Block) -> None:
    assert isinstance(json.loads(block.text), dict)


@pytest.mark.parametrize("block", in_language(BLOCKS, "toml"), ids=str)
def test_toml_is_accepted_as_a_file_of_datasets(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "datasets.toml"
    file.write_text(block.text, encoding="utf-8")
    (offer,) = read_configuration(file).values()
    assert (offer.relation, offer.limit, offer.order) == ("sales.orders", 100_000, ("-placed_at", "id"))


@pytest.mark.parametrize("block", in_language(BLOCKS, "ini"), ids=str)
def test_lines_of_an_env_file_are_accepted_settings(block: Block) -> None:
    given = dict(line.split("=", 1) for line in block.text.splitlines())
    assert given.keys() <= {field.encode_name for field in msgspec.structs.fields(Settings)}
    read_settings(given)


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
@pytest.mark.parametrize("block", in_language(BLOCKS, "nginx"), ids=str)
def test_block_of_nginx_is_valid(block: Block, tmp_path: Path) -> None:
    server = block.text.replace("listen 80;", f"listen unix:{tmp_path}/socket;")  # a port below 1024 is for root
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{ access_log off;\n{server}\n}}")
    command = ["nginx", "-t", "-q", "-p", str(tmp_path), "-e", str(tmp_path / "error.log"), "-c", str(configuration)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_every_block_that_is_not_run_is_still_there() -> None:
    assert NOT_RUN.keys() <= {block.text.rstrip() for block in BLOCKS}


def _names(cell: str) -> list[str]:
    return re.findall(r"`([A-Z_]+)`", cell)
