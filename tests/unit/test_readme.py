"""The README tells the truth: its settings are those of the code, its test command is CI's."""

import re
from pathlib import Path

import msgspec

from streamer.budget import budget, table
from streamer.config import Settings, read_settings
from streamer.source.catalog.configuration import read_configuration

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_setting_is_in_the_readme_and_no_other() -> None:
    table = README.partition("| setting |")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines() if row.startswith("| `") for name in _names(row.split("|")[1])}
    known = {field.encode_name for field in msgspec.structs.fields(Settings)}
    assert named == known


def test_defaults_in_the_readme_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([0-9]+)s? \|", README, re.MULTILINE)
    defaults = {field.encode_name: field.default for field in msgspec.structs.fields(Settings)}
    assert rows
    for name, default in rows:
        assert float(default) == defaults[name], name


def test_the_budget_in_the_readme_is_that_of_the_default_settings() -> None:
    settings = read_settings({"DATABASE_URL": "postgresql://nobody"})
    assert f"```\n{table(budget(settings))}\n```" in README


def test_ci_runs_the_test_command_of_the_readme() -> None:
    command = next(line for line in README.splitlines() if line.endswith("/pytest"))
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def _names(cell: str) -> list[str]:
    return re.findall(r"`([A-Z_]+)`", cell)


def test_the_file_of_datasets_in_the_readme_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "datasets.toml"
    file.write_text(README.partition("```toml\n")[2].partition("```")[0], encoding="utf-8")
    (offer,) = read_configuration(file).values()
    assert (offer.relation, offer.limit, offer.order) == ("sales.orders", 100_000, ("-placed_at", "id"))
