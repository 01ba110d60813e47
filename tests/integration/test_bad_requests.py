"""Requests that are not understood get a problem of RFC 9457 that names the fault, and leave no row and no file.

Each case is sent to every route that creates an export, in the query and in the JSON body.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
import pytest_asyncio
from yarl import URL

from streamer.config import Names
from streamer.http.api.request_bodies import MAX_BODY
from streamer.server import serving
from tests.conftest import Serve, Server, chosen_settings, connected, new_database, unlimited_session
from tests.exporting import create, read_problem
from tests.rawhttp import ask, connection

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROUTES = (("POST", "/exports/csv"), ("POST", "/exports"), ("GET", "/exports/csv"))

# name of the case: parameter in the query, its value, the parameter that the response names
QUERIES = {
    "sql_in_columns": ("columns", "id,(SELECT version())", "columns"),
    "a_second_statement_in_columns": ("columns", 'id"; DROP TABLE users; --', "columns"),
    "a_star_in_columns": ("columns", "*", "columns"),
    "no_columns": ("columns", "", "columns"),
    "an_empty_item_in_columns": ("columns", "id,,name", "columns"),
    "a_column_twice": ("columns", "id,name,id", "columns"),
    "a_column_in_capitals": ("columns", "ID", "columns"),
    "delimiter_of_two": ("delimiter", "ab", "delimiter"),
    "no_delimiter": ("delimiter", "", "delimiter"),
    "delimiter_is_the_quote": ("delimiter", '"', "delimiter"),
    "delimiter_is_a_line_feed": ("delimiter", "\n", "delimiter"),
    "delimiter_is_a_carriage_return": ("delimiter", "\r", "delimiter"),
    "delimiter_is_nul": ("delimiter", "\0", "delimiter"),
    "delimiter_beyond_ascii": ("delimiter", "§", "delimiter"),
    "quote_of_two": ("quoteChar", "''", "quoteChar"),
    "quote_is_the_delimiter": ("quoteChar", ",", "quoteChar"),
    "quote_is_a_line_feed": ("quoteChar", "\n", "quoteChar"),
    "quote_beyond_ascii": ("quoteChar", "«", "quoteChar"),
    "ltv_is_no_number": ("min_ltv", "abc", "min_ltv"),
    "ltv_has_thousands_of_digits": ("min_ltv", "1e4000", "min_ltv"),
    "ltv_is_empty": ("min_ltv", "", "min_ltv"),
    "ltv_is_sql": ("min_ltv", "0 OR 1=1", "min_ltv"),
    "ltv_in_arabic_digits": ("min_ltv", "١٢", "min_ltv"),
    "country_of_three_letters": ("country_code", "USA", "country_code"),
    "a_country_of_three_letters_in_a_list": ("country_code", "US,USA", "country_code"),
    "no_country": ("country_code", "", "country_code"),
    "an_empty_country_in_a_list": ("country_code", "US,,DE", "country_code"),
    "country_with_nul": ("country_code", "U\0", "country_code"),
    "tier_too_long": ("subscription_tier", "t" * 51, "subscription_tier"),
    "id_beyond_bigint": ("id", "9223372036854775808", "id"),
    "id_with_fraction": ("id", "1.5", "id"),
    "a_date_that_is_none": ("signup_date_from", "2023-02-29", "signup_date_from"),
    "a_date_in_words": ("signup_date__lt", "yesterday", "signup_date__lt"),
    "unknown_parameter": ("colour", "blue", "colour"),
    "unknown_parameter_in_capitals": ("MIN_LTV", "1", "MIN_LTV"),
    "unknown_operator": ("lifetime_value__like", "1", "lifetime_value__like"),
    "sql_as_a_parameter_name": ("id=1; DROP TABLE users", "1", "id=1; DROP TABLE users"),
    "limit_is_no_number": ("limit", "ten", "limit"),
    "limit_is_negative": ("limit", "-1", "limit"),
    "order_by_an_expression": ("order_by", "length(name)", "order_by"),
    "order_by_with_sql": ("order_by", "id; DROP TABLE users", "order_by"),
    "header_is_no_truth": ("header", "1", "header"),
    "null_with_the_delimiter": ("null", "a,b", "null"),
    "unknown_profile": ("profile", "calc", "profile"),
    "unknown_form_of_timestamps": ("timestamps", "rfc3339", "timestamps"),
    "isnull_is_no_truth": ("name__isnull", "maybe", "name__isnull"),
    "contains_in_a_number": ("id__contains", "1", "id__contains"),
    "unknown_dataset": ("dataset", "pg_shadow", "dataset"),
    "dataset_with_schema": ("dataset", "public.users", "dataset"),
    "no_dataset_name": ("dataset", "", "dataset"),
}

REPEATED = {
    "dataset": ("users", "users"),
    "delimiter": (";", "|"),
    "quoteChar": ("'", "'"),
    "min_ltv": ("1", "2"),
    "signup_date_to": ("2024-01-01", "2025-01-01"),
    "columns": ("id", "name,id"),  # a list may be given in parts, but no column twice
}

# JSON body → the parameter that the response names; None if the whole body is at fault
BODIES: dict[str, tuple[Any, str | None]] = {
    "columns_as_an_empty_list": ({"columns": []}, "columns"),
    "columns_with_a_list_in_it": ({"columns": ["id", ["name"]]}, "columns"),
    "columns_with_null_in_it": ({"columns": ["id", None]}, "columns"),
    "columns_as_an_object": ({"columns": {"id": True}}, "columns"),
    "sql_in_a_column_list": ({"columns": ["id", "name FROM users; --"]}, "columns"),
    "a_column_twice_in_a_list": ({"columns": ["id", "id"]}, "columns"),
    "delimiters_as_a_list": ({"delimiter": [","]}, "delimiter"),
    "filters_as_a_list": ({"filters": ["country_code"]}, "filters"),
    "filters_as_a_text": ({"filters": "country_code=US"}, "filters"),
    "unknown_filter": ({"filters": {"colour": "blue"}}, "colour"),
    "a_filter_also_beside_the_filters": ({"filters": {"country_code": "US"}, "country_code": "DE"}, "country_code"),
    "a_filter_under_two_names": ({"min_ltv": 1, "lifetime_value_min": 2}, "lifetime_value_min"),
    "country_of_three_letters_in_filters": ({"filters": {"country_code": "USA"}}, "country_code"),
    "countries_as_an_empty_list": ({"filters": {"country_code": []}}, "country_code"),
    "ltv_as_true": ({"min_ltv": True}, "min_ltv"),
    "ltv_of_thousands_of_digits": ({"filters": {"lifetime_value_min": "1e4000"}}, "lifetime_value_min"),
    "a_list": (["id"], None),
    "a_text": ("id", None),
    "null": (None, None),
    "null_for_a_condition": ({"country_code": None}, "country_code"),
    "null_for_a_filter": ({"filters": {"country_code": None}}, "country_code"),
    "null_in_the_list_of_a_filter": ({"filters": {"country_code": ["US", None]}}, "country_code"),
    "null_for_the_lower_bound": ({"min_ltv": None}, "min_ltv"),
    "null_for_isnull": ({"name__isnull": None}, "name__isnull"),
    "nothing_to_search_for": ({"name__contains": ""}, "name__contains"),
    "an_unknown_member_that_is_null": ({"nonsense": None}, "nonsense"),
    "utf_16_surrogate": ({"name": "\ud800"}, "name"),
}

BROKEN_JSON = {
    "cut_off": b'{"columns": ["id"',
    "trailing_comma": b'{"columns": "id",}',
    "two_values": b'{"columns": "id"} {"columns": "id"}',
    "nan": b'{"min_ltv": NaN}',
    "infinity": b'{"min_ltv": -Infinity}',
    "a_name_twice": b'{"min_ltv": 1, "min_ltv": 2}',
    "not_utf_8": b'{"country_code": "\xff\xfe"}',
    "latin_1": b'{"name": "M\xfcller"}',
    "a_surrogate_in_utf_8": b'{"name": "\xed\xa0\x80"}',
    "a_byte_order_mark": b'\xef\xbb\xbf{"columns": "id"}',
    "utf_16": '{"columns": "id"}'.encode("utf-16"),
    "form_fields": b"columns=id&country_code=US",
    "too_deep": b'{"columns": ' + b"[" * 15_000 + b"]" * 15_000 + b"}",
    "nul": b"\0",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(postgres: str, source_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """One server for all requests: none of them changes anything."""
    async with new_database(postgres) as database:
        settings = chosen_settings(database, source_url, tmp_path_factory.mktemp("refusing"))
        async with serving(settings) as url:
            yield Server(url, settings)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with unlimited_session() as client:
        yield client


@asynccontextmanager
async def nothing_remains(server: Server) -> AsyncIterator[None]:
    """Fails if the context leaves a row or a file, or a server that does not answer."""
    before = await rows_of(server), server.files()
    yield
    assert (await rows_of(server), server.files()) == before


async def rows_of(server: Server) -> int:
    async with connected(server.settings.database_url) as connection:
        return int(await connection.fetchval("SELECT count(*) FROM streamer.exports"))


async def refuse(
    session: aiohttp.ClientSession,
    server: Server,
    *,
    query: Iterable[tuple[str, str]] = (),
    body: bytes | None = None,
    json: Any = None,
    parameter: str | None,
    status: int = 400,
) -> None:
    """Sends the request to every route. Fails if a response does not name the parameter."""
    for method, path in ROUTES:
        url = URL(server.url + path).with_query(list(query))
        async with session.request(method, url, data=body, json=json) as response:
            problem = await read_problem(response, status)
        assert problem.get("parameter") == parameter
        assert parameter is None or problem["detail"].startswith(f"{parameter}: ")
        assert "Traceback" not in problem["detail"]


@pytest.mark.parametrize(("name", "text", "parameter"), QUERIES.values(), ids=QUERIES)
async def test_bad_parameter_in_query_or_body_is_refused_with_its_name(
    server: Server, session: aiohttp.ClientSession, name: str, text: str, parameter: str
) -> None:
    async with nothing_remains(server):
        await refuse(session, server, query=[(name, text)], parameter=parameter)
        await refuse(session, server, json={name: text}, parameter=parameter)


@pytest.mark.parametrize(("name", "texts"), REPEATED.items(), ids=REPEATED)
async def test_repeated_parameter_is_refused_with_its_name(
    server: Server, session: aiohttp.ClientSession, name: str, texts: tuple[str, ...]
) -> None:
    async with nothing_remains(server):
        await refuse(session, server, query=[(name, text) for text in texts], parameter=name)


@pytest.mark.parametrize(("body", "parameter"), BODIES.values(), ids=BODIES)
async def test_bad_member_of_a_body_is_refused_with_its_name(
    server: Server, session: aiohttp.ClientSession, body: Any, parameter: str | None
) -> None:
    async with nothing_remains(server):
        if body is None:
            await refuse(session, server, body=b"null", parameter=parameter)
        else:
            await refuse(session, server, json=body, parameter=parameter)


@pytest.mark.parametrize("body", BROKEN_JSON.values(), ids=BROKEN_JSON)
async def test_body_that_is_not_json_is_refused(server: Server, session: aiohttp.ClientSession, body: bytes) -> None:
    async with nothing_remains(server):
        await refuse(session, server, body=body, parameter=None)


@pytest.mark.parametrize("name", ["\\ud800", "a\\nb", "\\u0000", "x" * 1000], ids=["surrogate", "lines", "NUL", "long"])
async def test_long_or_unprintable_name_is_refused_in_a_printable_sentence(
    server: Server, session: aiohttp.ClientSession, name: str
) -> None:
    async with nothing_remains(server), session.post(f"{server.url}/exports/csv", data=f'{{"{name}": 1}}') as response:
        problem = await response.json()
        assert (response.status, response.content_type) == (400, "application/problem+json")
        assert problem["detail"].isprintable()
        assert len(problem["detail"]) < 500


async def test_body_that_is_too_large_gets_413(server: Server, session: aiohttp.ClientSession) -> None:
    async with nothing_remains(server):
        await refuse(session, server, body=b'{"columns": "id"}' + b" " * MAX_BODY, parameter=None, status=413)


# query → the parameter that the response names. Decoded with replacement, each would be another value or name.
NOT_UTF_8 = {
    "name__ne=M%FCller": "name__ne",
    "name=%C3": "name",
    "name__contains=%C0%AF": "name__contains",
    "name__in=a,%ED%A0%80": "name__in",
    "name=a&name=%ff%fe%fd": "name",
    "email%FC=a": "email%FC",
    "null=%FC": "null",
    "dataset=users%FC": "dataset",
    "filename=M%FCller.csv": "filename",
    "name__ne=100%": "name__ne",
    "name__ne=%ZZ": "name__ne",
    "name__ne=%u00fc": "name__ne",
}


@pytest.mark.parametrize(("query", "parameter"), NOT_UTF_8.items(), ids=NOT_UTF_8)
async def test_query_that_is_malformed_or_not_utf_8_is_refused_with_the_name_of_its_parameter(
    server: Server, session: aiohttp.ClientSession, query: str, parameter: str
) -> None:
    async with nothing_remains(server):
        for method, path in (*ROUTES, ("HEAD", "/exports/csv")):
            answer = await ask(server.url, method, f"{path}?{query}")
            assert answer.status == 400, (method, path)
            assert method == "HEAD" or answer.json()["parameter"] == parameter


@pytest.mark.parametrize(
    ("target", "parameter"),
    [
        ("/exports?status=failed%FC", "status"),
        ("/exports?cursor=%FC", "cursor"),
        ("/exports?limit=1%FC", "limit"),
        ("/exports?%FC=1", "%FC"),
        ("/exports/00000000-0000-0000-0000-000000000000/download?live=%FC", "live"),
        ("/exports/00000000-0000-0000-0000-000000000000/download?filename=%C3", "filename"),
        ("/exports/00000000-0000-0000-0000-000000000000/download?filename=100%", "filename"),
    ],
)
async def test_every_route_reads_its_query_strictly(server: Server, target: str, parameter: str) -> None:
    answer = await ask(server.url, "GET", target)
    assert (answer.status, answer.json()["parameter"]) == (400, parameter)


@pytest.mark.parametrize("target", ["?name=C#", "?name__ne=a#b"])
async def test_target_with_a_fragment_is_refused(server: Server, target: str) -> None:
    async with nothing_remains(server):
        for method, path in ROUTES:
            answer = await ask(server.url, method, path + target)
            assert (answer.status, "%23" in answer.json()["detail"]) == (400, True)


@pytest.mark.parametrize("target", [b"?name=M\xfcller", b"?name=M\xc3\xbcller"])
async def test_target_that_is_not_ascii_is_refused(server: Server, target: bytes) -> None:
    async with nothing_remains(server), connection(server.url) as plain:
        plain.writer.write(b"POST /exports/csv" + target + b" HTTP/1.1\r\nHost: streamer.example\r\n\r\n")
        assert (await plain.answer("POST")).status == 400


@pytest.mark.asyncio(loop_scope="function")
async def test_dataset_is_found_only_by_its_exact_name(serve: Serve, database: str) -> None:
    """aiohttp reads `%FC`, which is no UTF-8, and `%25FC` as the same name."""
    async with connected(database) as plain:
        await plain.execute('CREATE TABLE "%FC" (n int); CREATE TABLE "Größe" (n int); CREATE TABLE "\ufffd" (n int)')
    server = await serve(source_database_url=database, datasets=Names(('"%FC"', '"Größe"', '"\ufffd"')))
    for target, status in (
        ("%22%25FC%22", 200), ("%22%FC%22", 404), ("%FC", 404), ("%22%EF%BF%BD%22", 200), ("%22%C3%22", 404),
        ("%22Gr%C3%B6%C3%9Fe%22", 200), ("%22Gr%F6%DFe%22", 404), ("%22Gr%C3%B6%C3%9Fe%22%ZZ", 404), ("%", 404),
    ):  # fmt: skip
        answer = await ask(server.url, "GET", f"/datasets/{target}")
        assert answer.status == status, target


async def test_replacement_character_that_was_sent_is_accepted(server: Server) -> None:
    answer = await ask(server.url, "GET", "/exports/csv?columns=id&name=%EF%BF%BD")
    assert (answer.status, answer.body) == (200, b"id\n")


async def test_head_of_a_bad_request_is_refused(server: Server, session: aiohttp.ClientSession) -> None:
    async with (
        nothing_remains(server),
        session.head(f"{server.url}/exports/csv", params={"columns": "nonsense"}) as response,
    ):
        assert response.status == 400
        assert response.content_type == "application/problem+json"


BY_ID = (
    ("GET", ""),
    ("GET", "/status"),
    ("GET", "/download"),
    ("DELETE", ""),
    ("POST", "/cancel"),
)
IDS = {
    "unknown": str(uuid4()),
    "no_uuid": "abc",
    "nil": str(uuid4())[:-1],
    "uuid_without_hyphens": uuid4().hex,
    "uuid_in_braces": "%7B" + str(uuid4()) + "%7D",
    "number": "1",
    "nul": "%00",
    "dots": "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "not_utf_8": "%ff",
}


@pytest.mark.parametrize("name", IDS.values(), ids=IDS)
async def test_unknown_or_malformed_id_gets_404_on_every_route(
    server: Server, session: aiohttp.ClientSession, name: str
) -> None:
    for method, rest in BY_ID:
        url = URL(f"{server.url}/exports/{name}{rest}", encoded=True)
        async with session.request(method, url) as response:
            assert response.status == 404, f"{method} {url} is {response.status}"
            assert response.content_type == "application/problem+json"
            problem = await response.json()
            assert {"type", "title", "status", "detail", "instance", "error"} <= problem.keys()


@pytest.mark.parametrize("path", ["/doc", "/nothing", "/exports/a/b", "/exports/csv/status/x", "//exports"])
async def test_unknown_path_gets_a_404_problem(server: Server, session: aiohttp.ClientSession, path: str) -> None:
    async with session.get(URL(server.url + path, encoded=True)) as response:
        await read_problem(response, 404)


METHODS = {
    "/health": {"GET", "HEAD"},
    "/datasets": {"GET", "HEAD"},
    "/datasets/users": {"GET", "HEAD"},
    "/exports/csv": {"GET", "HEAD", "POST"},
    "/exports": {"GET", "HEAD", "POST"},
    "/exports/{id}": {"GET", "HEAD", "DELETE"},
    "/exports/{id}/status": {"GET", "HEAD"},
    "/exports/{id}/download": {"GET", "HEAD"},
    "/exports/{id}/cancel": {"POST"},
}


@pytest.mark.parametrize(("path", "allowed"), METHODS.items(), ids=METHODS)
async def test_wrong_method_gets_405_with_allow(
    server: Server, session: aiohttp.ClientSession, path: str, allowed: set[str]
) -> None:
    export = await create(session, server.url, columns="id")
    before = await export.until("completed")
    tried = {"GET", "POST", "PUT", "PATCH", "DELETE"} - allowed
    for method in tried:
        async with session.request(method, server.url + path.replace("{id}", export.id)) as response:
            await read_problem(response, 405)
            assert {word.strip() for word in response.headers["Allow"].split(",")} >= allowed
            assert method not in response.headers["Allow"]
    assert await export.status() == before
