"""Query string and JSON body → ExportSpec: one key for many spellings, and a refusal with the name for all else."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.durations import read_duration
from streamer.errors import BadBody, BadParameter, ClientError
from streamer.http.api.parameters import GENERAL, Parameters
from streamer.model import Condition, Dialect, ExportRequest, ExportSpec, Operator, Order, Timestamps
from streamer.source.catalog.catalog import Catalog
from streamer.source.dataset import Column, Dataset
from tests.asking import read_spec


def dataset(name: str, *columns: Column) -> Dataset:
    return Dataset(name=name, schema="public", relation=name, columns={column.name: column for column in columns})


def column(name: str, type_name: str, length: int | None = None) -> Column:
    return Column(name=name, declared=type_name, type=type_name, length=length)


CATALOG = Catalog(
    {
        "users": dataset(
            "users",
            column("id", "int8"),
            column("name", "varchar", 255),
            column("email", "varchar", 255),
            column("signup_date", "timestamptz"),
            column("country_code", "bpchar", 2),
            column("subscription_tier", "varchar", 50),
            column("lifetime_value", "numeric"),
        ),
        "events": dataset(
            "events",
            column("id", "int8"),
            column("at", "timestamp"),
            column("day", "date"),
            column("seen", "bool"),
            Column(name="payload", declared="json", type="json", length=None, compared=False, ordered=False),
            column("load", "float8"),
            column("load_max", "float8"),
        ),
    }
)
USERS = tuple(CATALOG["users"].columns)
EVENTS = tuple(CATALOG["events"].columns)

Body = bytes | dict[str, Any]


def ask(query: str = "", body: Body = b"") -> ExportSpec:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_spec(parse_qsl(query, keep_blank_values=True), text, CATALOG)


def where(query: str = "", body: Body = b"") -> dict[tuple[str, str], tuple[str, ...]]:
    """Returns the conditions as {(column, operator): values}."""
    conditions = ask(query, body).conditions
    found = {(each.column, each.operator.value): each.values for each in conditions}
    assert len(found) == len(conditions)
    return found


def refused(query: str = "", body: Body = b"") -> BadParameter:
    """Returns the refusal, whose sentence also names its parameter."""
    with pytest.raises(BadParameter) as caught:
        ask(query, body)
    assert caught.value.status == 400
    assert caught.value.parameter is not None
    assert caught.value.sentence.startswith(f"{caught.value.parameter}: ")
    return caught.value


@pytest.mark.parametrize("body", [b"", b" \r\n\t", b"{}", b'{"filters": {}}', b'{"filters": null}'])
def test_empty_request_is_every_user_with_all_columns(body: bytes) -> None:
    assert ask("", body) == ExportSpec(dataset="users", columns=USERS, conditions=(), dialect=Dialect())


def test_every_part_of_a_request_is_in_the_spec() -> None:
    spec = ask("dataset=events&columns=at,id&delimiter=;&quoteChar='&seen=TRUE&id__lt=10")
    assert spec == ExportSpec(
        dataset="events",
        columns=("at", "id"),
        conditions=(
            Condition(column="seen", operator=Operator.EQ, values=("true",)),
            Condition(column="id", operator=Operator.LT, values=("10",)),
        ),
        dialect=Dialect(delimiter=";", quote="'"),
    )


SAME_FLOOR = ["min_ltv", "lifetime_value__gte", "lifetime_value_min", "lifetime_value_from"]
SAME_CEILING = ["lifetime_value__lte", "lifetime_value_max", "lifetime_value_to"]


@pytest.mark.parametrize(
    ("names", "operator"),
    [
        (SAME_FLOOR, "gte"),
        (SAME_CEILING, "lte"),
        (["lifetime_value__gt"], "gt"),
        (["lifetime_value__lt"], "lt"),
        (["lifetime_value"], "eq"),
    ],
)
def test_aliases_mean_the_same_in_query_body_and_filters(names: list[str], operator: str) -> None:
    for name in names:
        wanted = {("lifetime_value", operator): ("100.50",)}
        assert where(f"{name}=100.50") == wanted
        assert where(body={name: "100.50"}) == wanted
        assert where(body={"filters": {name: "100.50"}}) == wanted


def test_column_with_the_name_of_an_alias_is_the_column() -> None:
    assert where("dataset=events&load_max=1") == {("load_max", "eq"): ("1",)}
    assert where("dataset=events&load_max_max=1&load_min=2") == {
        ("load_max", "lte"): ("1",),
        ("load", "gte"): ("2",),
    }


@pytest.mark.parametrize("twin", SAME_FLOOR[1:])
def test_two_names_with_one_key_are_refused(twin: str) -> None:
    assert refused(f"min_ltv=1&{twin}=1").parameter == twin
    complaint = refused("", {"min_ltv": 1, "filters": {twin: 2}})
    assert complaint.parameter == twin
    assert "min_ltv" in complaint.sentence


def test_query_wins_over_the_body() -> None:
    body = {
        "dataset": "users",
        "columns": ["id"],
        "delimiter": "|",
        "quoteChar": "'",
        "filters": {"lifetime_value_min": 1, "country_code": ["FR"], "id_to": 9},
    }
    spec = ask("columns=name&delimiter=;&min_ltv=100&country_code=DE", body)
    assert spec.columns == ("name",)
    assert spec.dialect == Dialect(delimiter=";", quote="'")
    assert where("columns=name&delimiter=;&min_ltv=100&country_code=DE", body) == {
        ("lifetime_value", "gte"): ("100",),
        ("country_code", "eq"): ("DE",),
        ("id", "lte"): ("9",),
    }


def test_dataset_of_the_query_decides_how_the_body_is_read() -> None:
    assert ask("dataset=events", {"dataset": "users", "seen": True}).dataset == "events"
    assert refused("dataset=events", {"country_code": "US"}).parameter == "country_code"


def test_body_and_query_have_the_same_spec() -> None:
    query = ask("dataset=events&columns=id,at&delimiter=tab&quoteChar='&id__gte=5&seen=false")
    body = {
        "dataset": "events",
        "columns": ["id", "at"],
        "delimiter": "tab",
        "quoteChar": "'",
        "filters": {"id__gte": 5, "seen": False},
    }
    assert ask("", body) == query


@pytest.mark.parametrize(
    "number",
    ["0.1", "100", "-12.50", "1E+2", "1e2", "99999999.99", "0.10000000000000000000000000000000000000001", "-0"],
)
def test_json_number_keeps_its_text(number: str) -> None:
    body = f'{{"filters": {{"lifetime_value": {number}}}}}'.encode()
    assert where("", body) == {("lifetime_value", "eq"): (number,)}


def test_json_integer_beyond_a_double_keeps_its_digits() -> None:
    assert where("", b'{"id": 9007199254740993}') == {("id", "eq"): ("9007199254740993",)}


@pytest.mark.parametrize("digits", [20, 5_000, 100_000])
def test_json_integer_of_any_length_is_refused_by_its_name(digits: int) -> None:
    complaint = refused("", b'{"id": 1' + b"0" * digits + b"}")
    assert complaint.parameter == "id"
    assert len(complaint.sentence) < 200


def test_general_members_that_are_null_are_not_given() -> None:
    nulls = dict.fromkeys(GENERAL)
    assert ask("", {**nulls, "filters": {"country_code": "US"}}) == ask("country_code=US")
    assert ask("", {**nulls, "filters": None, "country_code": "US"}) == ask("country_code=US")
    assert ask("", {"limit": None, "filters": {**nulls, "limit": 5}}) == ask("limit=5")
    assert ask("limit=5", {"limit": None}) == ask("limit=5")


@pytest.mark.parametrize("null", [None, [None], ["US", None], [None, "US"]], ids=repr)
@pytest.mark.parametrize(
    "name", ["country_code", "country_code__in", "country_code__ne", "name__contains", "min_ltv", "signup_date_to"]
)
def test_null_for_a_condition_is_refused_with_the_operator_for_null(name: str, null: Any) -> None:
    """Also if the query has a value for the same key: an empty variable is always an error."""
    for query in ("", f"{name}=US"):
        for body in ({name: null}, {"filters": {name: null}}):
            complaint = refused("" if name == "min_ltv" else query, body)
            assert complaint.parameter == name
            assert "__isnull=true asks for the rows where it is NULL" in complaint.sentence


@pytest.mark.parametrize("body", [{"nonsense": None}, {"filters": {"nonsense": None}}, {"filters": {"filters": None}}])
def test_unknown_member_is_refused_whatever_its_value(body: dict[str, Any]) -> None:
    assert "unknown parameter" in refused("", body).sentence


@pytest.mark.parametrize("name", ["columns", "order_by"])
def test_list_of_a_general_parameter_has_no_null(name: str) -> None:
    assert refused("", {name: ["id", None]}).sentence == f"{name}: must not have null in it"


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("country_code=US,DE", b""),
        ("country_code=US&country_code=DE", b""),
        ("country_code=US, DE", b""),
        ("", {"country_code": ["US", "DE"]}),
        ("", {"country_code": "US,DE"}),
        ("", {"filters": {"country_code": ["US", "DE"]}}),
    ],
)
def test_countries_are_a_list_in_every_spelling(query: str, body: Body) -> None:
    assert where(query, body) == {("country_code", "eq"): ("US", "DE")}


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("country_code=", b""),
        ("country_code=US,", b""),
        ("country_code=,", b""),
        ("country_code=US,,DE", b""),
        ("country_code=US&country_code=", b""),
        ("country_code=US,USA", b""),
        ("country_code=%00", b""),
        ("", {"country_code": []}),
        ("", {"country_code": ["US", ""]}),
        ("", {"country_code": ["US", None]}),
        ("", {"country_code": [["US"]]}),
        ("", {"country_code": {"eq": "US"}}),
        ("", {"country_code": "\ud800"}),
        ("", {"country_code": ["U\0"]}),
    ],
)
def test_malformed_list_of_countries_is_refused(query: str, body: Body) -> None:
    assert refused(query, body).parameter == "country_code"


def test_items_of_a_json_list_are_not_split() -> None:
    assert where("", {"subscription_tier": ["free,basic", " free"]}) == {
        ("subscription_tier", "eq"): ("free,basic", " free")
    }


def test_comma_in_a_name_is_kept() -> None:
    assert where("name=Smith, John") == {("name", "eq"): ("Smith, John",)}


def test_repeated_filter_matches_any_of_its_values() -> None:
    assert where("id=1&id=2&id=3") == {("id", "eq"): ("1", "2", "3")}
    assert where("", {"id": [1, "2", 3]}) == {("id", "eq"): ("1", "2", "3")}


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("min_ltv=1&min_ltv=2", "min_ltv"),
        ("id__gte=1&id__gte=1", "id__gte"),
        ("signup_date_to=2024-01-01&signup_date_to=2024-01-02", "signup_date_to"),
        ("delimiter=;&delimiter=;", "delimiter"),
        ("quoteChar='&quoteChar='", "quoteChar"),
        ("dataset=users&dataset=users", "dataset"),
        ("columns=id&columns=id", "columns"),
        ("columns=id,name,id", "columns"),
    ],
)
def test_repeated_parameter_that_has_one_value_is_refused(query: str, parameter: str) -> None:
    assert refused(query).parameter == parameter


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"min_ltv": [1, 2]}, "min_ltv"),
        ({"min_ltv": [1]}, "min_ltv"),
        ({"id": []}, "id"),
        ({"delimiter": [";", "|"]}, "delimiter"),
        ({"dataset": ["users", "events"]}, "dataset"),
        ({"signup_date__lt": ["2024-01-01", "2024-01-02"]}, "signup_date__lt"),
        ({"columns": []}, "columns"),
        ({"columns": ["id", "id"]}, "columns"),
        ({"columns": {"id": 1}}, "columns"),
        ({"columns": [None]}, "columns"),
        ({"id": {}}, "id"),
        ({"filters": {"id": [{"eq": 1}]}}, "id"),
        ({"filters": "country_code=US"}, "filters"),
        ({"filters": ["country_code"]}, "filters"),
        ({"filters": 1}, "filters"),
        ({"filters": True}, "filters"),
        ({"filters": {"filters": {"id": 1}}}, "filters"),
        ({"id": 1, "filters": {"id": 1}}, "id"),
        ({"columns": ["id"], "filters": {"columns": ["id"]}}, "columns"),
    ],
)
def test_member_of_a_wrong_type_is_refused(body: dict[str, Any], parameter: str) -> None:
    assert refused("", body).parameter == parameter


@pytest.mark.parametrize(
    "name",
    [
        "__gte",
        "_min",
        "min_ltv__gte",
        "id_min_min",
        "offset",
        "1=1;--",
        "constructor",
        "",
    ],
)
def test_unknown_parameter_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(BadParameter, match="unknown parameter; allowed are columns, dataset, delimiter") as caught:
        read_spec([(name, "1")], b"", CATALOG)
    assert caught.value.parameter == name
    assert all(known in caught.value.sentence for known in USERS)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("emial", "unknown parameter; did you mean email?"),
        ("country", "unknown parameter; did you mean country_code?"),
        ("Country_code", "unknown parameter; did you mean country_code?"),
        ("country_code ", "unknown parameter; did you mean country_code?"),
        ("quotechar", "unknown parameter; did you mean quoteChar?"),
        ("quote_char", "unknown parameter; did you mean quoteChar?"),
        ("column", "unknown parameter; did you mean columns?"),
        ("country_code__eq", "unknown operator __eq; bpchar has: country_code, country_code__ne, "),
        ("country_code__", "unknown operator __; bpchar has: "),
        ("lifetime_value__like", "unknown operator __like; numeric has: lifetime_value, "),
        ("lifetime_value>", "write lifetime_value__gte=1"),
    ],
)
def test_unknown_parameter_is_refused_with_the_one_that_was_meant(name: str, sentence: str) -> None:
    with pytest.raises(BadParameter) as caught:
        read_spec([(name, "1")], b"", CATALOG)
    assert caught.value.parameter == name
    assert caught.value.sentence.startswith(f"{name}: {sentence}")
    assert caught.value.sentence.endswith(" (see /datasets/users)")


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("lifetime_value%3E=500", "lifetime_value>: write lifetime_value__gte=500 (see /datasets/users)"),
        ("lifetime_value%3E500", "lifetime_value>500: write lifetime_value__gt=500 (see /datasets/users)"),
        ("lifetime_value%3C500", "lifetime_value<500: write lifetime_value__lt=500 (see /datasets/users)"),
        ("lifetime_value%3C%3E500", "lifetime_value<>500: write lifetime_value__ne=500 (see /datasets/users)"),
        ("lifetime_value!=500", "lifetime_value!: write lifetime_value__ne=500 (see /datasets/users)"),
        ("lifetime_value==500", "lifetime_value: must be a decimal number, not '=500'; write lifetime_value=500"),
        ("day=%3E5&dataset=events", "day: must be a date such as 2024-12-31, not '>5'; write day__gte=5"),
    ],
)
def test_a_comparison_is_told_how_to_write_it(query: str, sentence: str) -> None:
    assert refused(query).sentence == sentence


@pytest.mark.parametrize("body", [{"lifetime_value >": 500}, {"filters": {"lifetime_value>": 500}}])
def test_a_comparison_in_a_body_is_told_how_to_write_it(body: Body) -> None:
    assert "write lifetime_value__gt=500" in refused("", body).sentence


@pytest.mark.parametrize("name", ["country", "min_ltv ", "offset"])
def test_unknown_member_is_refused_beside_filters_and_in_them(name: str) -> None:
    assert refused("", {name: 1}).parameter == name
    assert refused("", {"filters": {name: 1}}).parameter == name


@pytest.mark.parametrize("name", ["", "public.users", "pg_catalog.pg_authid", "users; DROP TABLE users"])
def test_unknown_dataset_is_refused_with_the_known_ones(name: str) -> None:
    for complaint in (refused(f"dataset={name}".replace(";", "%3B")), refused("", {"dataset": name})):
        assert complaint.parameter == "dataset"
        assert complaint.sentence.endswith("allowed are users, events")
        assert repr(name) in complaint.sentence


@pytest.mark.parametrize("name", ["user", "Users", "userss"])
def test_unknown_dataset_is_refused_with_the_one_that_was_meant(name: str) -> None:
    assert refused(f"dataset={name}").sentence == f"dataset: there is no dataset '{name}'; did you mean users?"


def test_the_only_dataset_is_the_default() -> None:
    assert read_spec([], b"", Catalog({"events": CATALOG["events"]})).dataset == "events"


def test_a_dataset_must_be_given_if_there_are_several_and_none_is_users() -> None:
    others = Catalog({name: replace(CATALOG["events"], name=name) for name in ("a", "b")})
    with pytest.raises(BadParameter, match=r"^dataset: must be given: a, b$"):
        read_spec([], b"", others)


def test_alias_of_a_column_outside_of_the_dataset_is_refused() -> None:
    assert refused("dataset=events&min_ltv=1").parameter == "min_ltv"


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("id", ("id",)),
        ("name,id", ("name", "id")),
        (" id , name ", ("id", "name")),
        (",".join(reversed(USERS)), tuple(reversed(USERS))),
    ],
)
def test_columns_have_the_requested_order(text: str, columns: tuple[str, ...]) -> None:
    assert ask(f"columns={text}").columns == columns
    assert ask("", {"columns": text}).columns == columns
    assert ask("", {"columns": list(columns)}).columns == columns


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "id,",
        "*",
        "password",
        "ID",
        '"id"',
        "users.id",
        "id;DROP TABLE users",
        "id FROM users; --",
        "(SELECT version())",
        "count(*)",
        "id\0",
        "id'",
        "pg_sleep(10)",
        "\ud800",
    ],
)
def test_unknown_column_is_refused(text: str) -> None:
    for query, body in (([("columns", text)], b""), ([], json.dumps({"columns": [text]}).encode())):
        with pytest.raises(BadParameter) as caught:
            read_spec(query, body, CATALOG)
        assert caught.value.parameter == "columns"
        assert caught.value.sentence.isprintable()


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [(";", ";"), ("|", "|"), ("tab", "\t"), ("\t", "\t"), (" ", " "), ("\\", "\\"), ("a", "a"), ("\x01", "\x01")],
)
def test_delimiter_is_one_ascii_character_or_tab_by_name(text: str, delimiter: str) -> None:
    assert read_spec([("delimiter", text)], b"", CATALOG).dialect == Dialect(delimiter=delimiter)
    assert ask("", {"delimiter": text}).dialect == Dialect(delimiter=delimiter)


@pytest.mark.parametrize(("text", "quote"), [("'", "'"), ("|", "|"), ("tab", "\t"), ("\\", "\\")])
def test_quote_is_one_ascii_character_or_tab_by_name(text: str, quote: str) -> None:
    assert read_spec([("quoteChar", text)], b"", CATALOG).dialect == Dialect(quote=quote)
    assert ask("", {"quoteChar": text}).dialect == Dialect(quote=quote)


def test_delimiter_and_quote_may_be_swapped() -> None:
    assert read_spec([("delimiter", '"'), ("quoteChar", ",")], b"", CATALOG).dialect == Dialect(
        delimiter='"', quote=","
    )


@pytest.mark.parametrize("name", ["delimiter", "quoteChar"])
@pytest.mark.parametrize(
    "text", ["", ";;", "\n", "\r", "\r\n", "\0", "é", "\u00a0", "\U0001f600", "TAB", "\\t", "\ud800"]
)
def test_character_that_csv_cannot_have_is_refused(name: str, text: str) -> None:
    for query, body in (([(name, text)], b""), ([], json.dumps({name: text}).encode())):
        with pytest.raises(BadParameter, match=f"^{name}: must ") as caught:
            read_spec(query, body, CATALOG)
        assert caught.value.parameter == name
        assert caught.value.sentence.isprintable()


@pytest.mark.parametrize("text", ["\\t", "TAB", "tabulator", "%09", ""])
def test_other_names_of_a_tab_are_refused_with_its_own(text: str) -> None:
    for name in ("delimiter", "quoteChar"):
        with pytest.raises(BadParameter, match=f"^{name}: must be exactly one ASCII character, or the word tab, not"):
            read_spec([(name, text)], b"", CATALOG)


@pytest.mark.parametrize(
    ("pairs", "parameter"),
    [
        ([("delimiter", '"')], "delimiter"),
        ([("quoteChar", ",")], "quoteChar"),
        ([("delimiter", "|"), ("quoteChar", "|")], "delimiter"),
        ([("delimiter", "tab"), ("quoteChar", "\t")], "delimiter"),
    ],
)
def test_equal_delimiter_and_quote_are_refused(pairs: list[tuple[str, str]], parameter: str) -> None:
    with pytest.raises(BadParameter, match="delimiter and quoteChar must differ") as caught:
        read_spec(pairs, b"", CATALOG)
    assert caught.value.parameter == parameter


@pytest.mark.parametrize("name", ["signup_date_to", "signup_date_max", "signup_date__lte"])
@pytest.mark.parametrize(
    ("day", "morrow"),
    [
        ("2024-01-31", "2024-02-01T00:00:00+00:00"),
        ("2024-02-28", "2024-02-29T00:00:00+00:00"),
        ("2023-12-31", "2024-01-01T00:00:00+00:00"),
        ("9999-12-31", "10000-01-01T00:00:00+00:00"),
        ("0044-03-14 BC", "0044-03-15T00:00:00+00:00 BC"),
    ],
)
def test_up_to_a_day_includes_that_day(name: str, day: str, morrow: str) -> None:
    assert where(f"{name}={day}") == {("signup_date", "lt"): (morrow,)}


def test_up_to_a_day_is_the_same_for_moments_without_a_zone() -> None:
    assert where("dataset=events&at_to=2024-01-31") == {("at", "lt"): ("2024-02-01T00:00:00",)}


@pytest.mark.parametrize(
    ("query", "condition"),
    [
        ("signup_date_to=2024-01-31T00:00:00Z", ("signup_date", "lte", "2024-01-31T00:00:00+00:00")),
        ("signup_date_to=2024-01-31T10:00:00%2B02:00", ("signup_date", "lte", "2024-01-31T08:00:00+00:00")),
        ("signup_date__lt=2024-01-31", ("signup_date", "lt", "2024-01-31T00:00:00+00:00")),
        ("signup_date_from=2024-01-31", ("signup_date", "gte", "2024-01-31T00:00:00+00:00")),
        ("signup_date__gt=2024-01-31", ("signup_date", "gt", "2024-01-31T00:00:00+00:00")),
        ("signup_date_to=infinity", ("signup_date", "lte", "infinity")),
        ("signup_date_to=-infinity", ("signup_date", "lte", "-infinity")),
        ("id_to=20240131", ("id", "lte", "20240131")),
        ("dataset=events&day_to=2024-01-31", ("day", "lte", "2024-01-31")),
        ("dataset=events&day_to=9999-12-31", ("day", "lte", "9999-12-31")),
    ],
)
def test_other_bounds_are_kept_as_written(query: str, condition: tuple[str, str, str]) -> None:
    name, operator, value = condition
    assert where(query) == {(name, operator): (value,)}


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("signup_date_to=2024-02-30", "signup_date_to"),
        ("signup_date_to=yesterday", "signup_date_to"),
        ("signup_date_from=2024-01-31T10:00:00+02:00", "signup_date_from"),  # its plus sign is a space
        ("signup_date_from=", "signup_date_from"),
        ("id=", "id"),
        ("id=1 OR 1=1", "id"),
        ("id=9223372036854775808", "id"),
        ("id=１", "id"),  # noqa: RUF001 - a full-width digit is meant
        ("min_ltv=NaNa", "min_ltv"),
        ("min_ltv=100%20", "min_ltv"),
        ("lifetime_value_max=1e4000", "lifetime_value_max"),
        ("name=a%00b", "name"),
        ("dataset=events&seen=2", "seen"),
        ("dataset=events&payload={}", "payload"),
        ("dataset=events&payload__gte={}", "payload__gte"),
        ("dataset=events&id__contains=1", "id__contains"),
        ("dataset=events&load=", "load"),
    ],
)
def test_value_that_its_column_cannot_read_is_refused(query: str, parameter: str) -> None:
    complaint = refused(query)
    assert complaint.parameter == parameter
    assert complaint.sentence.isprintable()


def test_text_of_a_filter_is_never_read_as_sql() -> None:
    text = "'; DROP TABLE users; --"
    assert read_spec([("name", text)], b"", CATALOG).conditions == (
        Condition(column="name", operator=Operator.EQ, values=(text,)),
    )


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"null",
        b'"columns"',
        b"1",
        b"true",
        b"{",
        b'{"id": }',
        b'{"id": 01}',
        b'{"id": 1,}',
        b"{'id': 1}",
        b'{"id": 1} {}',
        b'{"id": "\n"}',
        b"country_code=US",
        b'{"id": NaN}',
        b'{"id": Infinity}',
        b'{"filters": {"lifetime_value": [-Infinity]}}',
        b'{"id": 1, "id": 1}',
        b'{"id": 1, "i\\u0064": 2}',
        b'{"filters": {"id": 1, "id": 2}}',
        b'{"filters": {}, "filters": {}}',
        b'{"a": {"b": [{"c": 1, "c": 1}]}}',
        b"\xff",
        b'{"name": "\xe9"}',
        b'{"name": "\xed\xa0\x80"}',
        '{"id": 1}'.encode("utf-16"),
        '{"id": 1}'.encode("utf-8-sig"),
        b"\0",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_body_that_is_not_a_json_object_is_refused_in_one_short_line(body: bytes) -> None:
    with pytest.raises(BadBody) as caught:
        ask("", body)
    assert caught.value.status == 400
    assert caught.value.sentence.startswith("the body must be a JSON object")
    assert caught.value.sentence.isprintable()
    assert len(caught.value.sentence) < 250


@pytest.mark.parametrize(
    "body",
    [
        b"country_code=US",
        b"country_code=US&columns=id",
        b"a%5B0%5D=1",
        b'--x\r\nContent-Disposition: form-data; name="country_code"\r\n\r\nUS\r\n--x--\r\n',
    ],
)
def test_a_form_is_told_to_be_json(body: bytes) -> None:
    with pytest.raises(BadBody, match=r"not a form: send JSON such as .*, or use query parameters$"):
        ask("", body)


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"a=b"'])
def test_json_that_is_no_object_is_told_what_to_send(body: bytes) -> None:
    with pytest.raises(BadBody, match=r"^the body must be a JSON object: send JSON such as "):
        ask("", body)


def test_malformed_body_is_refused_even_if_the_query_is_complete() -> None:
    with pytest.raises(BadBody):
        ask("columns=id&country_code=US", b"{")


KNOWN_NAMES = [
    *("columns", "dataset", "delimiter", "quoteChar", "filters", "min_ltv", "signup_date_to", "at_max", "id__gt"),
    *USERS,
    *EVENTS,
]
KNOWN_TEXTS = [
    *("users", "events", "id", "id,name", "tab", ",", '"', ";", "", "US,DE", "true", "1", "-1", "1e5", "1e400"),
    *("NaN", "2024-12-31", "9999-12-31", "0001-01-01T00:00:00+05:00", "2024-01-01T00:00:00Z", "\0", "\ud800", "\n"),
]
any_text = st.text(st.characters(exclude_categories=()), max_size=12)
names = st.sampled_from(KNOWN_NAMES) | any_text
texts = st.sampled_from(KNOWN_TEXTS) | any_text
members: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(names, members, max_size=4)
bodies = st.one_of(
    st.just(b""),
    st.binary(max_size=30),
    objects.map(lambda found: json.dumps(found).encode()),
    st.builds(lambda found, filters: json.dumps({**found, "filters": filters}).encode(), objects, objects),
    st.text('{}[]":,\\0123456789eE+-. nulltrueNaN', max_size=30).map(str.encode),
)


def check_within_the_catalog(spec: ExportSpec) -> None:
    columns = CATALOG[spec.dataset].columns
    assert spec.columns
    assert len(set(spec.columns)) == len(spec.columns)
    assert set(spec.columns) <= set(columns)
    for condition in spec.conditions:
        assert condition.column in columns
        assert condition.values
        assert condition.operator is Operator.EQ or len(condition.values) == 1
    assert len(spec.dialect.delimiter) == len(spec.dialect.quote) == 1
    assert spec.dialect.delimiter != spec.dialect.quote
    assert ExportSpec.from_json(spec.to_json()) == spec


def answer(pairs: list[tuple[str, str]], body: bytes) -> ExportSpec | ClientError:
    try:
        return read_spec(pairs, body, CATALOG)
    except ClientError as refusal:
        return refusal


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(names, texts), max_size=4), bodies)
def test_any_request_is_within_the_catalog_or_refused(pairs: list[tuple[str, str]], body: bytes) -> None:
    found = answer(pairs, body)
    if isinstance(found, ExportSpec):
        check_within_the_catalog(found)
    else:
        assert isinstance(found, BadParameter if found.parameter is not None else BadBody)


@settings(max_examples=100, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "columns": st.lists(st.sampled_from(USERS), min_size=1, unique=True),
            "delimiter": st.sampled_from(";|\t"),
            "id": st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=3),
            "country_code": st.lists(st.sampled_from(["US", "DE", "FR"]), min_size=1, max_size=3),
            "min_ltv": st.integers(),
            "signup_date_from": st.dates().map(str),
            "name": st.lists(
                st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), min_size=1, max_size=3
            ),
        },
    )
)
def test_any_valid_request_is_accepted(asked: dict[str, Any]) -> None:
    found = where("", {"filters": {**asked}})
    spec = ask("", asked)
    check_within_the_catalog(spec)
    assert spec.columns == tuple(asked.get("columns", USERS))
    assert len(found) == len(asked.keys() - {"columns", "delimiter"})
    for name, operator in (("id", "eq"), ("country_code", "eq"), ("name", "eq")):
        assert found.get((name, operator), ()) == tuple(map(str, asked.get(name, ())))
    if "min_ltv" in asked:
        assert found["lifetime_value", "gte"] == (str(asked["min_ltv"]),)
    if "signup_date_from" in asked:
        assert found["signup_date", "gte"] == (f"{asked['signup_date_from']}T00:00:00+00:00",)


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("order_by=id,-name", b""),
        ("order_by=id&order_by=-name", b""),
        ("", {"order_by": ["id", "-name"]}),
        ("", {"order_by": "id, -name"}),
    ],
)
def test_order_is_a_list_of_columns_with_signs(query: str, body: Body) -> None:
    assert ask(query, body).order == (Order(column="id"), Order(column="name", descending=True))


@pytest.mark.parametrize(
    "query", ["order_by=", "order_by=id,", "order_by=id,id", "order_by=id,-id", "order_by=-", "order_by=nothing"]
)
def test_malformed_order_is_refused(query: str) -> None:
    assert refused(query).parameter == "order_by"


@pytest.mark.parametrize(("text", "limit"), [("0", 0), ("1", 1), ("007", 7), ("9" * 18, 10**18 - 1)])
def test_limit_is_a_number_of_rows(text: str, limit: int) -> None:
    assert ask(f"limit={text}").limit == limit
    assert ask("", {"limit": text}).limit == limit


@pytest.mark.parametrize("text", ["", "-1", "1.5", "1e3", "ten", "9" * 19, "９", " 1", "1&limit=1"])  # noqa: RUF001
def test_malformed_limit_is_refused(text: str) -> None:
    assert refused(f"limit={text}").parameter == "limit"


@pytest.mark.parametrize(
    ("query", "dialect"),
    [
        ("header=false", Dialect(header=False)),
        ("header=TRUE", Dialect()),
        ("null=NULL", Dialect(null="NULL")),
        ("null=", Dialect()),
        ("bom=true", Dialect(bom=True)),
        ("escapeFormulas=true", Dialect(escape_formulas=True)),
        ("profile=excel", Dialect(bom=True, escape_formulas=True)),
        ("profile=excel&bom=false", Dialect(escape_formulas=True)),
        ("profile=excel&escapeFormulas=false&delimiter=;", Dialect(bom=True, delimiter=";")),
        ("timestamps=iso8601", Dialect(timestamps=Timestamps.ISO8601)),
        ("timestamps=postgres", Dialect()),
    ],
)
def test_dialect_is_that_of_the_profile_with_the_given_parameters(query: str, dialect: Dialect) -> None:
    assert ask(query.replace(";", "%3B")).dialect == dialect


def test_json_booleans_are_booleans() -> None:
    assert ask("", {"header": False, "bom": True}).dialect == Dialect(header=False, bom=True)


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("header=", "header"),
        ("bom=1", "bom"),
        ("escapeFormulas=yes", "escapeFormulas"),
        ("profile=Excel", "profile"),
        ("timestamps=", "timestamps"),
        ("null=,", "null"),
        ("null=x&quoteChar=x", "null"),
        ("null=a&null=b", "null"),
        ("header=true&header=true", "header"),
    ],
)
def test_malformed_dialect_is_refused(query: str, parameter: str) -> None:
    assert refused(query).parameter == parameter


def test_required_column_needs_a_condition_that_narrows() -> None:
    catalog = Catalog({"users": replace(CATALOG["users"], required=("id", "signup_date"))})

    def missing(query: str) -> str | None:
        try:
            read_spec(parse_qsl(query), b"", catalog)
        except BadParameter as refusal:
            return refusal.parameter
        return None

    assert missing("") == "id"
    assert missing("id=1") == "signup_date"
    assert missing("id=1&signup_date__isnull=false") == "signup_date"
    assert missing("id__ne=1&signup_date_to=2024-01-01") == "id"
    assert missing("id__in=1,2&signup_date_to=2024-01-01") is None


def test_hidden_column_is_refused_as_unknown() -> None:
    users = CATALOG["users"]
    hidden = {"email": users.columns["email"]}
    shown = {name: column for name, column in users.columns.items() if name not in hidden}
    catalog = Catalog({"users": replace(users, columns=shown, hidden=hidden)})
    assert read_spec([], b"", catalog).columns == tuple(shown)
    for name, text in [("email", "x"), ("email__isnull", "true"), ("columns", "email"), ("order_by", "email")]:
        with pytest.raises(BadParameter):
            read_spec([(name, text)], b"", catalog)


def test_name_of_a_column_and_a_parameter_is_the_column_in_filters() -> None:
    """A condition that was read as a parameter would export every row."""
    catalog = Catalog({"users": dataset("users", column("limit", "int4"), column("label", "text"))})

    def ask(body: dict[str, Any]) -> ExportRequest:
        parameters = Parameters([], json.dumps(body).encode())
        return parameters.request(parameters.dataset(catalog), max_ttl=DAY)

    found = ask({"limit": 5, "label": "mine", "filters": {"header": False}})
    assert (found.spec.limit, found.label, found.spec.dialect.header, found.spec.conditions) == (5, "mine", False, ())
    found = ask({"limit": None, "filters": {"limit": [1, 2], "label": "x"}})
    assert (found.spec.limit, found.label) == (None, None)
    assert [(each.column, each.values) for each in found.spec.conditions] == [("limit", ("1", "2")), ("label", ("x",))]
    for refused in (
        {"filters": {"label": None}},
        {"label": None, "filters": {"label": None}},
        {"filters": {"limit": [None]}},
    ):
        with pytest.raises(BadParameter, match="__isnull=true asks for the rows where it is NULL"):
            ask(refused)
    for twice in ({"label": "a", "filters": {"label": "b"}}, {"label": "a", "filters": {"label": None}}):
        with pytest.raises(BadParameter, match="is given both in filters and beside it"):
            ask(twice)


DAY = timedelta(days=1)


def requested(query: str = "", body: Body = b"", *, max_ttl: timedelta = DAY) -> ExportRequest:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    parameters = Parameters(parse_qsl(query, keep_blank_values=True), text)
    return parameters.request(parameters.dataset(CATALOG), max_ttl=max_ttl)


def test_label_and_ttl_do_not_affect_the_rows() -> None:
    found = requested("label=Month+end&ttl=2h&columns=id")
    assert (found.label, found.ttl) == ("Month end", timedelta(hours=2))
    assert found.spec == ask("columns=id")
    assert requested("label=a&ttl=90", {"label": "b", "ttl": "1h"}) == requested("", {"label": "a", "ttl": 90})
    assert requested("", {"label": None, "ttl": None}) == requested()


@pytest.mark.parametrize(
    "text", ["a", "x" * 100, " a ", "5", "北京", "\U0001f469\u200d\U0001f4bb", "a\u00a0b", "<b>", "100%"]
)
def test_label_is_kept_as_written(text: str) -> None:
    assert requested("", {"label": text}).label == text


@pytest.mark.parametrize(
    "text", ["", " ", "x" * 101, "\n", "a\0b", "\x1b[31m", "\x9b", "\u2028", "\u202e", "\u2066", "\ud800"]
)
def test_label_that_is_empty_too_long_or_unprintable_is_refused(text: str) -> None:
    with pytest.raises(BadParameter) as caught:
        requested("", {"label": text})
    assert caught.value.parameter == "label"
    assert caught.value.sentence.isprintable()


@pytest.mark.parametrize("text", ["90", "60s", "5m", "24h", "1d", "0.5", "1ms", "86400", " 2h "])
def test_ttl_is_a_duration_as_in_settings(text: str) -> None:
    assert requested("", {"ttl": text}).ttl == read_duration(text)


@pytest.mark.parametrize(
    "text", ["", "0", "0.0000001", "-1", "25h", "86401", "9999999999d", "1e3", "soon", "PT2H", "5 m"]
)
def test_ttl_that_is_malformed_or_too_long_is_refused_with_the_allowed_range(text: str) -> None:
    for max_ttl, allowed in ((DAY, "1d"), (timedelta(hours=12), "12h"), (timedelta(seconds=90.5), "90.5s")):
        with pytest.raises(BadParameter, match=f"more than 0 and at most EXPORT_TTL, {allowed}$") as caught:
            requested("", {"ttl": text}, max_ttl=max_ttl)
        assert caught.value.parameter == "ttl"


def test_column_with_the_name_of_a_parameter_is_filtered_with_an_operator() -> None:
    catalog = Catalog({"users": dataset("users", column("limit", "int4"), column("header", "text"))})
    spec = read_spec([("limit__in", "1,2"), ("limit", "5"), ("header__ne", "x")], b"", catalog)
    assert spec.limit == 5
    assert [(each.column, each.operator.value, each.values) for each in spec.conditions] == [
        ("limit", "eq", ("1", "2")),
        ("header", "ne", ("x",)),
    ]
