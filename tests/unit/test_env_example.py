"""`.env.example` names every setting, with its default and a sentence, and docker-compose.yml hands each of them on."""

import re
from pathlib import Path

import msgspec
import pytest

from streamer.config import Settings, read_settings

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
URL = "postgresql://nobody@nowhere/none"
FIELDS = {field.encode_name: field for field in msgspec.structs.fields(Settings)}
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


@pytest.mark.parametrize("name", sorted(VALUES))
def test_each_value_follows_a_sentence_of_its_own(name: str) -> None:
    before = EXAMPLE.partition(f"\n{name}=")[0].splitlines()[-1]
    assert re.fullmatch(r"# [A-Z].{10,}\.", before)


@pytest.mark.parametrize("name", sorted(VALUES.keys() - OF_THE_IMAGE - OF_COMPOSE))
def test_compose_hands_each_setting_on(name: str) -> None:
    assert re.search(rf"^      {name}: \$\{{{name}:(-[a-z]*|\+/[a-z.]+)\}}$", COMPOSE, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(OF_THE_IMAGE | OF_COMPOSE))
def test_compose_reads_what_is_not_the_servers_with_the_default_of_the_example(name: str) -> None:
    assert f"${{{name}:-{VALUES[name]}}}" in COMPOSE
