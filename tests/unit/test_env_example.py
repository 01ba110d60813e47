"""`.env.example` has every setting with its default and its description; docker-compose.yml passes each of them on."""

import re
from pathlib import Path

import msgspec
import pytest

from streamer.config import SettingDescription, Settings, described_settings, read_settings

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
URL = "postgresql://nobody@nowhere/none"
FIELDS = {field.encode_name: field for field in msgspec.structs.fields(Settings)}
DESCRIBED = described_settings()
ALIASES = {alias for setting in DESCRIBED for alias in setting.aliases}
OF_COMPOSE = {"SEED_ROWS", "STOP_GRACE_PERIOD"}
OF_THE_IMAGE = {"API_HOST", "API_PORT", "EXPORT_STORAGE_PATH"}  # inside of a container they are always the same
VALUES = dict(re.findall(r"^([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))
SETTINGS = {name: text for name, text in VALUES.items() if name not in OF_COMPOSE}


def test_every_setting_is_in_the_example_and_no_other() -> None:
    assert VALUES.keys() == FIELDS.keys() | OF_COMPOSE


def test_values_of_the_example_are_the_defaults() -> None:
    assert read_settings({**SETTINGS, "DATABASE_URL": URL}) == read_settings({"DATABASE_URL": URL})
    assert read_settings({**SETTINGS, "DB_HOST": "db"}) == read_settings({"DB_HOST": "db"})


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_value_is_empty_only_where_there_is_no_default(name: str) -> None:
    assert bool(VALUES[name]) == (FIELDS[name].default not in {None, ""})


@pytest.mark.parametrize("setting", DESCRIBED, ids=lambda setting: setting.name)
def test_each_default_follows_its_description_under_its_group(setting: SettingDescription) -> None:
    before, _, after = EXAMPLE.partition(f"\n{setting.name}=")
    assert after.splitlines()[0] == setting.default
    assert re.findall(r"^# --- (.*) ---$", before, re.MULTILINE)[-1] == setting.group
    comment = re.search(r"(?:\n# .*)+\Z", before)
    assert comment is not None
    text = " ".join(line.removeprefix("# ") for line in comment[0].strip().splitlines())
    assert text == setting.meaning or text.startswith(f"{setting.meaning} Docker Compose: ")


@pytest.mark.parametrize("name", sorted(OF_COMPOSE))
def test_each_value_of_compose_follows_a_sentence(name: str) -> None:
    before = EXAMPLE.partition(f"\n{name}=")[0].splitlines()[-1]
    assert re.fullmatch(r"# [A-Z].{10,}\.", before)


@pytest.mark.parametrize("name", sorted(ALIASES | VALUES.keys() - OF_THE_IMAGE - OF_COMPOSE))
def test_compose_hands_each_setting_on(name: str) -> None:
    assert re.search(rf"^      {name}: \$\{{{name}:(-[a-z]*|\+/[a-z._/]+)\}}$", COMPOSE, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(OF_THE_IMAGE | OF_COMPOSE))
def test_compose_reads_what_is_not_the_servers_with_the_default_of_the_example(name: str) -> None:
    assert f"${{{name}:-{VALUES[name]}}}" in COMPOSE
