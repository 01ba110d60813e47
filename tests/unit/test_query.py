"""SQL of an ExportSpec: quoting, the parts of the statement, and the order of literals. There is no database."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.errors import ExportFailure
from streamer.model import Condition, ExportSpec, Operator, Order
from streamer.postgres.driver import Connection
from streamer.postgres.quoting import quote_identifier
from streamer.source.dataset import Column, Dataset
from streamer.source.query.query import QUOTE_LITERALS, Query, compose


def columns_of(*names: str) -> dict[str, Column]:
    return {name: Column(name=name, declared="text", type="text", length=None) for name in names}


USERS = Dataset(
    name="users",
    schema="public",
    relation="users",
    columns={
        **columns_of("id", "name", "country_code"),
        "far": Column(name="far", declared="citext", type='"s""x".citext', length=None, operators_in='s"x'),
    },
)


class Quoting:
    """Answers like PostgreSQL's quote_literal, and records the values."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    async def fetchval(self, sql: str, values: Sequence[str]) -> list[str]:
        assert sql == QUOTE_LITERALS
        self.asked.append(list(values))
        return ["'" + value.replace("'", "''") + "'" for value in values]


async def composed(dataset: Dataset, *conditions: Condition, columns: tuple[str, ...] = ("id",)) -> Query:
    spec = ExportSpec(dataset=dataset.name, columns=columns, conditions=conditions)
    return await compose(cast("Connection", Quoting()), dataset, spec)


def condition(column: str, operator: Operator, *values: str) -> Condition:
    return Condition(column=column, operator=operator, values=values)


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("id", '"id"'),
        ("Mixed Case", '"Mixed Case"'),
        ("select", '"select"'),
        ('a"b', '"a""b"'),
        ('"', '""""'),
        ('x"; DROP TABLE users; --', '"x""; DROP TABLE users; --"'),
        ("$1", '"$1"'),
        ("%s", '"%s"'),
        ("back\\slash", '"back\\slash"'),
        ("line\nfeed", '"line\nfeed"'),
        ("naïve", '"naïve"'),
    ],
)
def test_identifier_is_delimited_and_its_quotes_doubled(name: str, quoted: str) -> None:
    assert quote_identifier(name) == quoted


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from('"a.; $') | st.characters(), min_size=1, max_size=20))
def test_any_identifier_is_one_token_that_reads_back_as_itself(name: str) -> None:
    """4.1.1 of the PostgreSQL documentation: a delimited identifier ends at the first quote that is not doubled."""
    token = re.match(r'"((?:[^"]|"")*)"', quote_identifier(name))
    assert token is not None
    assert token.end() == len(quote_identifier(name))
    assert token[1].replace('""', '"') == name


def test_sql_names_columns_in_order_and_the_relation() -> None:
    query = Query(columns=('"b"', '"a"'), relation='"public"."users"', where=" WHERE \"a\" IN ('1')")
    assert query.sql == 'SELECT "b", "a" FROM "public"."users" AS "streamer: row" WHERE "a" IN (\'1\')'


def test_sql_as_text_has_the_same_rows_with_each_value_in_output_form() -> None:
    query = Query(columns=('"b"', '"a"'), relation='"public"."users"', where=" WHERE \"a\" IN ('1')")
    assert query.sql_as_text == (
        'SELECT CASE WHEN "b" IS DISTINCT FROM NULL THEN pg_catalog.format(\'%s\', "b") END, '
        'CASE WHEN "a" IS DISTINCT FROM NULL THEN pg_catalog.format(\'%s\', "a") END '
        'FROM "public"."users" AS "streamer: row" WHERE "a" IN (\'1\')'
    )


async def test_spec_without_conditions_sends_no_query() -> None:
    class Silent:
        async def fetchval(self, *arguments: Any) -> Any:
            raise AssertionError("no literal is needed")

    spec = ExportSpec(dataset="users", columns=("name", "id"))
    query = await compose(cast("Connection", Silent()), USERS, spec)
    assert query.sql == 'SELECT "name", "id" FROM "public"."users" AS "streamer: row"'


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        (condition("id", Operator.EQ, "5"), "\"id\" IN ('5')"),
        (condition("country_code", Operator.EQ, "US", "DE"), "\"country_code\" IN ('US', 'DE')"),
        (condition("id", Operator.GTE, "5"), "\"id\" >= '5'"),
        (condition("id", Operator.GT, "5"), "\"id\" > '5'"),
        (condition("id", Operator.LTE, "5"), "\"id\" <= '5'"),
        (condition("id", Operator.LT, "5"), "\"id\" < '5'"),
        (condition("name", Operator.EQ, "O'Brien"), "\"name\" IN ('O''Brien')"),
        (condition("id", Operator.NE, "5", "6"), "NOT \"id\" IN ('5', '6')"),
        (condition("id", Operator.ISNULL, "true"), '"id" IS NOT DISTINCT FROM NULL'),
        (condition("id", Operator.ISNULL, "false"), '"id" IS DISTINCT FROM NULL'),
        (condition("name", Operator.CONTAINS, "50%_\\"), "\"name\" LIKE '%50\\%\\_\\\\%'"),
        (condition("name", Operator.STARTSWITH, "a%"), "\"name\" LIKE 'a\\%%'"),
        (condition("far", Operator.EQ, "a", "b"), '("far" OPERATOR("s""x".=) \'a\' OR "far" OPERATOR("s""x".=) \'b\')'),
        (condition("far", Operator.GTE, "a"), '"far" OPERATOR("s""x".>=) \'a\''),
    ],
)
async def test_condition_becomes_a_comparison(asked: Condition, where: str) -> None:
    query = await composed(USERS, asked)
    assert query.sql == f'SELECT "id" FROM "public"."users" AS "streamer: row" WHERE {where}'


async def test_conditions_are_joined_and_each_gets_its_own_literals() -> None:
    query = await composed(
        USERS,
        condition("id", Operator.GTE, "1"),
        condition("country_code", Operator.EQ, "US", "DE", "FR"),
        condition("id", Operator.LT, "9"),
    )
    assert query.where == " WHERE \"id\" >= '1' AND \"country_code\" IN ('US', 'DE', 'FR') AND \"id\" < '9'"


async def test_all_values_are_quoted_by_the_server_in_one_query() -> None:
    quoting = Quoting()
    spec = ExportSpec(
        dataset="users",
        columns=("id",),
        conditions=(condition("country_code", Operator.EQ, "US", "DE"), condition("name", Operator.EQ, "$1")),
    )
    await compose(cast("Connection", quoting), USERS, spec)
    assert quoting.asked == [["US", "DE", "$1"]]


async def test_strange_names_of_the_catalog_are_quoted_everywhere() -> None:
    strange = Dataset(name="odd", schema='s"x', relation="Order Lines", columns=columns_of('a"b', "$1"))
    query = await composed(strange, condition('a"b', Operator.GT, "1"), columns=('a"b', "$1"))
    assert query.sql == 'SELECT "a""b", "$1" FROM "s""x"."Order Lines" AS "streamer: row" WHERE "a""b" > \'1\''


async def asked(dataset: Dataset = USERS, **spec: Any) -> str:
    whole = ExportSpec(**{"dataset": dataset.name, "columns": ("id",), **spec})
    return (await compose(cast("Connection", Quoting()), dataset, whole)).sql


async def test_order_names_the_relation_so_that_no_output_column_is_meant() -> None:
    order = (Order(column="name", descending=True), Order(column="id"))
    assert await asked(order=order) == (
        'SELECT "id" FROM "public"."users" AS "streamer: row" '
        'ORDER BY "streamer: row"."name" DESC, "streamer: row"."id"'
    )


async def test_the_query_has_one_row_more_than_the_limit() -> None:
    assert (await asked(limit=10)).endswith(' FROM "public"."users" AS "streamer: row" LIMIT 11')


async def test_the_configuration_of_the_dataset_is_added() -> None:
    dataset = replace(
        USERS,
        columns=columns_of("id"),
        hidden=columns_of("tenant"),
        conditions=(condition("tenant", Operator.EQ, "7"),),
        order=(Order(column="tenant"),),
        limit=5,
    )
    found = await asked(dataset, limit=9, conditions=(condition("id", Operator.GT, "1"),))
    assert found == (
        """SELECT "id" FROM "public"."users" AS "streamer: row" WHERE "tenant" IN ('7') AND "id" > '1' """
        """ORDER BY "streamer: row"."tenant" LIMIT 6"""
    )
    assert (await asked(dataset, limit=2, order=(Order(column="id"),))).endswith(
        'ORDER BY "streamer: row"."id" LIMIT 3'
    )


@pytest.mark.parametrize(
    "spec",
    [
        {"columns": ("id", "gone")},
        {"conditions": (condition("gone", Operator.EQ, "1"),)},
        {"order": (Order(column="gone"),)},
    ],
)
async def test_column_that_is_not_offered_fails_the_export_in_any_clause(spec: dict[str, Any]) -> None:
    hiding = replace(USERS, hidden=columns_of("gone"))
    with pytest.raises(ExportFailure, match="the column 'gone' of the dataset 'users' is no longer offered"):
        await asked(hiding, **spec)
