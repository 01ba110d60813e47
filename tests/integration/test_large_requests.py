"""Requests at the limits of the README: 1000 UUIDs, 1,599 columns with the longest names; and one value beyond them.

The limits of the URL, the body, the number of values and the stored request agree, and each refusal has the limit.
"""

import gc
import json
import tracemalloc
from collections.abc import AsyncIterator
from urllib.parse import quote, urlencode
from uuid import UUID

import aiohttp
import pytest
import pytest_asyncio

from streamer.budget import PARSING
from streamer.config import Names, Settings
from streamer.http.api.parameters import MAX_SPEC, Parameters
from streamer.http.api.raw_parameters import MAX_COMMAS
from streamer.http.api.request_bodies import MAX_BODY
from streamer.http.net.connection import MAX_TARGET
from streamer.http.net.large_responses import MAX_WAITING
from streamer.server import serving
from streamer.source.catalog.filters import MAX_VALUES
from tests.conftest import Server, connected
from tests.exporting import RemoteExport, sha256
from tests.held import scratch_database
from tests.rawhttp import connection

pytestmark = pytest.mark.asyncio(loop_scope="module")

IDS = [str(UUID(int=number << 64 | 0xFFFF)) for number in range(MAX_VALUES)]
ASCII = ["name", *(f"{number:04d}_{'x' * 58}" for number in range(1598))]
MULTIBYTE = ["name", *(f"{number:04d}{'é' * 29}_" for number in range(1598))]  # 63 bytes each
NAMES = {"ascii": ASCII, "multibyte": MULTIBYTE}


async def make(database: str, table: str, names: list[str]) -> None:
    declared = ", ".join(f'"{name}" text' for name in names)
    async with connected(database) as hand:
        await hand.execute(f'CREATE TABLE "{table}" (customer_id uuid, {declared})')
        await hand.executemany(f'INSERT INTO "{table}" (customer_id) VALUES ($1)', [(UUID(each),) for each in IDS])
        await hand.execute(f'INSERT INTO "{table}" VALUES (NULL)')


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def wide(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with scratch_database(postgres) as database:
        for table, names in NAMES.items():
            await make(database, table, names)
        settings = Settings(
            database_url=database,
            api_port=0,
            datasets=Names(NAMES),
            export_storage_path=tmp_path_factory.mktemp("spool"),
        )
        async with serving(settings) as url:
            yield Server(url, settings)


@pytest_asyncio.fixture(loop_scope="module")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def csv_of(names: list[str]) -> bytes:
    rows = "".join(identity + "," * (len(names) - 1) + "\n" for identity in IDS)
    return (",".join(names) + "\n" + rows).encode()


async def newest(session: aiohttp.ClientSession, server: Server) -> list[str]:
    async with session.get(f"{server.url}/exports?limit=1") as answer:
        return [export["exportId"] for export in (await answer.json())["exports"]]


async def exported(session: aiohttp.ClientSession, server: Server, answer: aiohttp.ClientResponse) -> bytes:
    assert answer.status == 202, await answer.text()
    export = RemoteExport(session, server.url, (await answer.json())["exportId"])
    await export.until("completed")
    return await export.body()


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "query",
    [
        urlencode([("customer_id", identity) for identity in IDS]),
        urlencode({"customer_id__in": ",".join(IDS)}),
        "customer_id__in=" + ",".join(IDS),
    ],
    ids=["repeated", "escaped commas", "commas"],
)
async def test_1000_uuids_fit_into_a_url(wide: Server, session: aiohttp.ClientSession, method: str, query: str) -> None:
    target = f"/exports/csv?dataset=ascii&columns=customer_id&{query}"
    async with connection(wide.url) as wire:
        answer = await wire.ask(method, target)
    if method == "GET":
        assert (answer.status, sha256(answer.body)) == (200, sha256(csv_of(["customer_id"])))
    else:
        export = RemoteExport(session, wide.url, answer.json()["exportId"])
        await export.until("completed")
        assert sha256(await export.body()) == sha256(csv_of(["customer_id"]))


@pytest.mark.parametrize("indent", [None, 2])
async def test_1000_uuids_fit_into_a_body(wide: Server, session: aiohttp.ClientSession, indent: int | None) -> None:
    body = json.dumps({"dataset": "ascii", "columns": "customer_id", "filters": {"customer_id": IDS}}, indent=indent)
    for method in ("POST", "GET"):
        async with session.request(method, f"{wide.url}/exports/csv", data=body) as answer:
            whole = await exported(session, wide, answer) if method == "POST" else await answer.read()
        assert sha256(whole) == sha256(csv_of(["customer_id"]))


@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("table", NAMES)
async def test_1599_of_the_longest_names_and_1000_uuids_fit_into_a_body(
    wide: Server, session: aiohttp.ClientSession, table: str, escaped: bool
) -> None:
    columns = ["customer_id", *NAMES[table]]
    asked = {"dataset": table, "columns": columns, "customer_id": IDS}
    body = json.dumps(asked, ensure_ascii=escaped).encode()
    async with session.post(f"{wide.url}/exports/csv", data=body) as answer:
        assert sha256(await exported(session, wide, answer)) == sha256(csv_of(columns))
    async with session.get(f"{wide.url}/exports?limit=1") as answer:
        (found,) = (await answer.json())["exports"]
    assert (found["columns"], found["query"]["customer_id"]) == (columns, IDS)


async def test_url_that_is_too_long_gets_414_that_recommends_a_body(wide: Server) -> None:
    target = "/exports/csv?dataset=multibyte&columns=" + quote(",".join(MULTIBYTE))
    async with connection(wide.url) as wire:
        answer = await wire.ask("GET", target)
    assert answer.status == 414
    assert answer.json()["detail"] == (
        f"the URL has more than {MAX_TARGET} bytes; the parameters of an export may be sent as a JSON body, by POST"
        " /exports/csv"
    )


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (b'{"null": "%s"}' % (b"x" * MAX_BODY), (413, MAX_BODY)),
        (json.dumps({"customer_id": [*IDS, IDS[0]]}).encode(), (400, MAX_VALUES)),
        (json.dumps({"customer_id": ["1"] * (MAX_COMMAS + 2)}).encode(), (400, MAX_COMMAS)),
        (json.dumps({"customer_id__ne": IDS, "customer_id": IDS, "name": "x" * MAX_SPEC}).encode(), (400, MAX_SPEC)),
    ],
    ids=["body", "values of a condition", "values in all", "stored"],
)
@pytest.mark.parametrize("chunked", [False, True])
async def test_request_beyond_a_limit_is_refused_with_the_limit_and_creates_no_export(
    wide: Server, session: aiohttp.ClientSession, body: bytes, refused: tuple[int, int], chunked: bool
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 8192):
            yield body[start : start + 8192]

    before = await newest(session, wide)
    async with session.post(f"{wide.url}/exports/csv?dataset=ascii", data=pieces() if chunked else body) as answer:
        problem = await answer.json()
    status, number = refused
    assert (answer.status, problem["status"]) == (status, status)
    assert str(number) in problem["detail"]
    assert await newest(session, wide) == before


async def test_unread_large_responses_hold_no_more_than_their_limit(
    wide: Server, session: aiohttp.ClientSession
) -> None:
    """Each response has 250 kB."""
    async with session.post(f"{wide.url}/exports/csv", json={"dataset": "ascii", "customer_id": IDS}) as answer:
        export_id = (await answer.json())["exportId"]
    await RemoteExport(session, wide.url, export_id).until("completed")
    statuses, wires = [], []
    try:
        for _ in range(3 * MAX_WAITING // 140_000):
            manager = connection(wide.url, receive=4096)
            wire = await manager.__aenter__()
            wires.append(manager)
            await wire.send("GET", f"/exports/{export_id}")
            statuses.append((await wire.begin())[0].status)
    finally:
        for manager in wires:
            await manager.__aexit__(None, None, None)
    assert set(statuses) == {200, 503}
    async with session.get(f"{wide.url}/exports/{export_id}") as answer:
        assert (await answer.json())["query"]["customer_id"] == IDS


def most_of(act: object) -> int:
    """Returns the peak of memory that a call uses, in bytes."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        act()  # type: ignore[operator]
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"columns": ASCII, "customer_id": IDS}).encode(),
        json.dumps({"columns": MULTIBYTE, "customer_id": IDS}).encode(),
        json.dumps({"x": ["11"] * MAX_COMMAS}).encode(),
        json.dumps({f"x{n}": 11 for n in range(MAX_COMMAS)}, separators=(",", ":")).encode(),
        ('{"x":"' + "\U0001f600" + "x" * (MAX_BODY - 100) + '"}').encode(),
        json.dumps({"x": ["\U0001f600" + 30 * "x"] * (MAX_COMMAS - 1)}, ensure_ascii=False).encode(),
    ],
    ids=["columns", "multibyte", "short values", "members", "wide", "wide values"],
)
async def test_parsing_a_large_request_uses_no_more_memory_than_the_budget(body: bytes) -> None:
    assert len(body) <= MAX_BODY
    assert most_of(lambda: Parameters([], body)) < PARSING
