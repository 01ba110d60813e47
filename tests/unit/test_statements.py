"""SQL statements that are read from files."""

import re
from importlib.resources import files

import pytest

from streamer.postgres.statements import read_all_sql, read_sql
from streamer.source.catalog import introspection, restrictions
from streamer.source.query import plan
from streamer.source.session import consistency, snapshot

SESSION = "streamer.source.session"
STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": value
    for module in (introspection, restrictions, plan, consistency, snapshot)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str) and "SELECT" in value
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_has_all_of_its_parts_and_no_comment_lines(name: str) -> None:
    statement = STATEMENTS[name]
    assert not re.search(r"\{\w+\}", statement)
    assert not re.search(r"^\s*--", statement, re.MULTILINE)


@pytest.mark.parametrize("package", ["streamer.source.catalog", "streamer.source.query", SESSION])
def test_every_file_of_a_package_begins_with_a_comment_that_explains_it(package: str) -> None:
    found = [path for path in files(package).joinpath("sql").iterdir() if path.name.endswith(".sql")]
    assert found
    assert [path.name for path in found if not path.read_text(encoding="utf-8").startswith("--")] == []


def test_all_statements_of_a_package_are_read_in_the_order_of_their_names() -> None:
    found = read_all_sql(SESSION)
    assert list(found) == sorted(found) != []
    assert found["held"] == read_sql(SESSION, "held")
    assert "migrations" not in read_all_sql("streamer.jobs")


def test_a_missing_part_is_refused() -> None:
    with pytest.raises(KeyError):
        read_sql(SESSION, "shape")
