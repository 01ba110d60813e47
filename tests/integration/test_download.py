"""Live and completed downloads over real sockets, compared by hash with the CSV that the seeds' oracle computes."""

import asyncio
import hashlib
import json
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from streamer.source.source import CursorChoice
from tests import seeds
from tests.conftest import ROWS, Gated, Serve, Server
from tests.exporting import RemoteExport, create, saved_as, sha256
from tests.gates import GATED_ROWS, Gates, gated_csv
from tests.polling import until
from tests.rawhttp import Connection, End, connection

both_cursors = pytest.mark.parametrize("cursor", [CursorChoice.COPY, CursorChoice.FETCH])


@dataclass(frozen=True)
class FilteredRequest:
    """A request, and the rows that the oracle expects."""

    parameters: dict[str, str]
    keep: Callable[[seeds.Row], bool]
    columns: Sequence[str] = seeds.COLUMNS
    delimiter: str = ","
    quote: str = '"'
    body: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def records(self) -> list[bytes]:
        """Returns the header line and every record, ordered by id."""
        rows = filter(self.keep, seeds.rows(ROWS))
        return list(seeds.csv_bytes(rows, self.columns, self.delimiter, self.quote))


FILTERED = {
    "country_list": FilteredRequest({"country_code": "US,DE,X"}, lambda row: row.country_code in {"US", "DE", "X "}),
    "tier": FilteredRequest({"subscription_tier": "premium"}, lambda row: row.subscription_tier == "premium"),
    "min_ltv": FilteredRequest({"min_ltv": "9000.5"}, lambda row: worth(row) >= Decimal("9000.5")),
    "min_ltv_of_zero": FilteredRequest(
        {"min_ltv": "0", "country_code": "GB"}, lambda row: worth(row) >= 0 and row.country_code == "GB"
    ),
    "ltv_below_zero": FilteredRequest(
        {"lifetime_value__lt": "-0.5"}, lambda row: Decimal("-Infinity") < worth(row) < Decimal("-0.5")
    ),
    "all_filters": FilteredRequest(
        {"country_code": "FR,JP", "subscription_tier": "basic,enterprise", "min_ltv": "250"},
        lambda row: (
            row.country_code in {"FR", "JP"}
            and row.subscription_tier in {"basic", "enterprise"}
            and worth(row) >= Decimal(250)
        ),
    ),
    "columns_in_another_order": FilteredRequest(
        {"columns": "lifetime_value,name,id", "country_code": "IN"},
        lambda row: row.country_code == "IN",
        columns=("lifetime_value", "name", "id"),
    ),
    "one_column_with_nulls": FilteredRequest(
        {"columns": "name", "min_ltv": "9000"}, lambda row: worth(row) >= 9000, columns=("name",)
    ),
    "semicolons_and_apostrophes": FilteredRequest(
        {"delimiter": ";", "quoteChar": "'", "country_code": "BR"},
        lambda row: row.country_code == "BR",
        delimiter=";",
        quote="'",
    ),
    "tabs": FilteredRequest(
        {"delimiter": "tab", "subscription_tier": "enterprise"},
        lambda row: row.subscription_tier == "enterprise",
        delimiter="\t",
    ),
    "json_body": FilteredRequest(
        {},
        lambda row: row.country_code in {"US", "GB"} and Decimal(100) <= worth(row) <= Decimal(500),
        columns=("id", "email", "signup_date"),
        delimiter="|",
        body={
            "columns": ["id", "email", "signup_date"],
            "delimiter": "|",
            "filters": {"country_code": ["US", "GB"], "lifetime_value_min": 100, "lifetime_value_max": 500},
        },
    ),
    "nothing_matches": FilteredRequest({"country_code": "ZZ"}, lambda row: False),
}


def worth(row: seeds.Row) -> Decimal:
    """Returns the lifetime value of a row. NULL is below every bound of the tests."""
    return Decimal(row.lifetime_value if row.lifetime_value is not None else "-Infinity")


def split_records(body: bytes, quote: str) -> list[bytes]:
    """Splits a CSV into its records; a line feed between quotes ends none."""
    records, begun = [], b""
    for line in body.removesuffix(b"\n").split(b"\n"):
        begun += line + b"\n"
        if begun.count(quote.encode()) % 2 == 0:
            records.append(begun)
            begun = b""
    return records


@both_cursors
async def test_live_and_completed_bodies_equal_the_oracle(
    serve: Serve, session: aiohttp.ClientSession, cursor: CursorChoice
) -> None:
    server = await serve(export_method=cursor)
    expected = sha256(seeds.csv_bytes(seeds.rows(ROWS)))
    export = await create(session, server.url)
    async with session.get(export.download) as live:
        assert "Content-Length" not in live.headers
        assert sha256(await live.read()) == expected
    async with session.get(export.download) as sealed:
        body = await sealed.read()
        assert int(sealed.headers["Content-Length"]) == len(body)
        assert sha256(body) == expected
    status = await export.status()
    assert status["status"] == "completed"
    assert status["sha256"] == expected
    assert status["progress"]["bytes"] == len(body)
    assert status["progress"]["processedRows"] == status["progress"]["totalRows"] == ROWS
    assert status["progress"]["percentage"] == 100
    assert status["progress"]["estimated"] is False


@pytest.mark.parametrize("filtered", FILTERED.values(), ids=FILTERED)
async def test_filtered_export_has_exactly_the_rows_of_the_oracle(
    serve: Serve, session: aiohttp.ClientSession, tmp_path: Path, filtered: FilteredRequest
) -> None:
    """By both cursors in one test, because the oracle takes longer than the export."""
    for cursor in (CursorChoice.COPY, CursorChoice.FETCH):
        server = await serve(export_method=cursor, export_storage_path=tmp_path / cursor)
        await assert_rows_of_the_oracle(session, server, filtered)


async def assert_rows_of_the_oracle(session: aiohttp.ClientSession, server: Server, filtered: FilteredRequest) -> None:
    export = await create(session, server.url, body=filtered.body or None, **filtered.parameters)
    live = await export.body()
    sealed = await export.body()
    assert sha256(live) == sha256(sealed)
    expected = filtered.records
    header, *records = split_records(live, filtered.quote)
    assert header == expected[0]
    assert sha256(sorted(records)) == sha256(sorted(expected[1:]))  # an index scan has an order of its own
    status = await export.status()
    assert status["sha256"] == sha256(live)
    assert status["progress"]["bytes"] == len(live)
    assert status["progress"]["processedRows"] == status["progress"]["totalRows"] == len(expected) - 1
    assert (status["progress"]["percentage"], status["progress"]["estimated"]) == (100, False)


async def test_export_of_zero_rows_gets_200_and_a_header_line(server: Server, session: aiohttp.ClientSession) -> None:
    async with session.get(f"{server.url}/exports/csv", params={"country_code": "ZZ"}) as response:
        assert response.status == 200
        assert await response.read() == b",".join(name.encode() for name in seeds.COLUMNS) + b"\n"


async def test_total_is_estimated_while_rows_are_written_and_exact_at_the_end(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    for row in (20_000, 60_000):
        await gates.shut("gated", row)
    # The planner takes a third of these rows to be left: the estimate is too low.
    await gates.dataset("underestimated", "SELECT * FROM gated WHERE id > 0")
    server = await serve(**gates.settings)
    export = await create(session, server.url, dataset="underestimated")
    seen: list[dict[str, Any]] = []

    async def watch(export: RemoteExport) -> None:
        while not seen or seen[-1]["status"] != "completed":
            seen.append(await export.status())

    watching = asyncio.create_task(watch(export))
    for row in (20_000, 60_000):
        await gates.reached("gated", row)

        async def processed(row: int = row) -> bool:
            return bool(seen) and bool(seen[-1]["progress"]["processedRows"] > row - 1000)

        await until(processed, f"the status does not count the rows before {row}")
        progress = seen[-1]["progress"]
        assert progress["estimated"] is True
        assert row > progress["processedRows"]
        assert progress["totalRows"] >= progress["processedRows"]
        assert 0 < progress["percentage"] < 100
        await gates.open("gated", row)
    await watching
    percentages = [status["progress"]["percentage"] for status in seen]
    assert percentages == sorted(percentages)
    assert {status["status"] for status in seen if status["progress"]["percentage"] == 100} == {"completed"}
    assert seen[-1]["progress"]["totalRows"] == seen[-1]["progress"]["processedRows"] == GATED_ROWS
    assert seen[-1]["progress"]["estimated"] is False


async def follow_at_random(export: RemoteExport, seed: int) -> str:
    """Returns the SHA-256 of a download that is read in small pieces, with pauses, through a small buffer."""
    chance = random.Random(seed)
    digest = hashlib.sha256()
    async with connection(export.server, receive=chance.choice([4096, 16384, 65536])) as client:
        await client.send("GET", export.path)
        head, body = await client.begin()
        assert head.status == 200
        largest = chance.choice([1000, 5000, 20000])
        while await body.more(chance.randint(1, largest)):
            digest.update(body.received)
            body.received.clear()
            if chance.random() < 0.01:
                await asyncio.sleep(chance.random() / 50)
        assert body.end is End.WHOLE
    return digest.hexdigest()


async def test_twenty_followers_at_random_moments_and_speeds_get_identical_bytes(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("first")
    await gates.view("followed")
    await gates.shut("first", 1)
    for row in (20_000, 70_000):
        await gates.shut("followed", row)
    server = await serve(max_concurrent_exports=1, **gates.settings)
    before = await create(session, server.url, dataset="first")
    export = await create(session, server.url, dataset="followed")
    await gates.reached("first", 1)
    chance = random.Random(20)
    followers: list[asyncio.Task[str]] = []

    def join(many: int) -> None:
        for seed in range(len(followers), len(followers) + many):
            followers.append(asyncio.create_task(join_late(seed, chance.random() / 10)))

    async def join_late(seed: int, delay: float) -> str:
        await asyncio.sleep(delay)
        return await follow_at_random(export, seed)

    join(5)
    assert (await export.status())["status"] == "pending"
    await gates.open("first", 1)
    for row in (20_000, 70_000):
        join(5)
        await gates.reached("followed", row)
        await gates.open("followed", row)
    await export.until("completed")
    join(20 - len(followers))
    assert set(await asyncio.gather(*followers)) == {sha256(gated_csv())}
    assert (await export.status())["sha256"] == sha256(gated_csv())
    assert (await before.until("completed"))["sha256"] == sha256(gated_csv())


async def test_follower_that_stops_reading_does_not_slow_the_export_and_gets_the_whole_later(
    gated: Gated, gates: Gates
) -> None:
    server, export = await gated(20_000)
    async with connection(server.url, receive=4096) as still:
        await still.send("GET", export.path)
        head, body = await still.begin()
        assert (head.status, head["Transfer-Encoding"]) == (200, "chunked")
        await gates.open("gated", 20_000)
        await export.until("completed")
        assert sha256(await body.whole()) == sha256(gated_csv())


async def test_export_is_streamed_in_the_request_that_creates_it(serve: Serve, session: aiohttp.ClientSession) -> None:
    server = await serve()
    async with session.get(f"{server.url}/exports/csv", params={"columns": "id,email"}) as response:
        assert response.status == 200
        assert "Content-Length" not in response.headers
        export = RemoteExport(session, server.url, response.headers["X-Export-Id"])
        assert response.headers["Content-Location"] == f"{export.id}/download"
        assert saved_as().fullmatch(response.headers["Content-Disposition"])
        expected = sha256(seeds.csv_bytes(seeds.rows(ROWS), ["id", "email"]))
        assert sha256(await response.read()) == expected
    assert sha256(await export.body()) == (await export.status())["sha256"] == expected


async def test_streamed_export_whose_client_left_is_whole_at_its_content_location(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 50_000)
    server = await serve(**gates.settings)
    async with session.get(f"{server.url}/exports/csv", params={"dataset": "gated"}) as response:
        export = RemoteExport(session, server.url, response.headers["X-Export-Id"])
        await response.content.readexactly(1_000_000)
        response.close()
    follower = asyncio.create_task(export.body())
    await gates.reached("gated", 50_000)
    await gates.open("gated", 50_000)
    assert sha256(await follower) == sha256(gated_csv())


async def test_head_of_a_streamed_export_creates_none(
    server: Server, gates: Gates, session: aiohttp.ClientSession
) -> None:
    async with session.head(f"{server.url}/exports/csv") as response:
        assert response.status == 200
        assert response.content_type == "text/csv"
        assert "X-Export-Id" not in response.headers
    assert await gates.connection.fetchval("SELECT count(*) FROM streamer.exports") == 0
    assert server.files() == set()


async def test_http_1_0_waits_for_the_end_and_gets_a_length(gated: Gated, gates: Gates) -> None:
    server, export = await gated(50_000)
    async with connection(server.url) as wire:
        await wire.send("GET", export.path, version="1.0")
        answer = asyncio.create_task(wire.begin())
        await gates.reached("gated", 50_000)
        assert not answer.done()
        await gates.open("gated", 50_000)
        head, _ = await answer
        assert (head.status, int(head["Content-Length"])) == (200, len(gated_csv()))
        assert "Transfer-Encoding" not in head
        assert sha256(await wire.rest()) == sha256(gated_csv())


async def test_http_1_0_gets_an_error_for_an_export_that_fails(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 50_000)
    await gates.dataset("failing", "SELECT id, 1 / (id - 60000) AS quotient FROM gated")
    server = await serve(**gates.settings)
    export = await create(session, server.url, dataset="failing")
    async with connection(server.url) as wire:
        await wire.send("GET", export.path, version="1.0")
        await gates.reached("gated", 50_000)
        await gates.open("gated", 50_000)
        head, _ = await wire.begin()
        assert (head.status, head["Content-Type"]) == (409, "application/problem+json")
        assert "division by zero" in json.loads(await wire.rest())["detail"]


def without_dates(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): text for name, text in fields if name.lower() != "date"}


async def test_head_of_a_live_and_of_a_completed_export_has_the_fields_of_get(
    gated: Gated, gates: Gates, session: aiohttp.ClientSession
) -> None:
    _, export = await gated(50_000)
    await gates.reached("gated", 50_000)
    async with session.head(export.download) as head, session.get(export.download) as live:
        assert (head.status, live.status) == (200, 200)
        assert "Content-Length" not in head.headers
        of_get = without_dates(live.headers.items())
        of_get.pop("transfer-encoding")
        of_head = without_dates(head.headers.items())
        of_head.pop("transfer-encoding", None)
        assert of_head == of_get
        await gates.open("gated", 50_000)
        assert sha256(await live.read()) == sha256(gated_csv())
    async with session.head(export.download) as head, session.get(export.download) as sealed:
        assert (head.status, sealed.status) == (200, 200)
        assert head.headers["Content-Length"] == str(len(gated_csv()))
        assert without_dates(head.headers.items()) == without_dates(sealed.headers.items())
        assert await head.read() == b""
        assert sha256(await sealed.read()) == sha256(gated_csv())


async def whole_digest(wire: Connection) -> str:
    """Returns the SHA-256 of the next response, which must be a 200."""
    answer = await wire.answer()
    assert answer.status == 200
    return sha256(answer.body)


async def test_live_and_completed_downloads_over_one_connection_are_whole(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated", rows=30_000)
    expected = sha256(gated_csv(30_000))
    await gates.shut("gated", 20_000)
    server = await serve(**gates.settings)
    export = await create(session, server.url, dataset="gated")
    async with connection(server.url) as wire:
        await wire.send("GET", export.path)
        live = asyncio.create_task(whole_digest(wire))
        await gates.reached("gated", 20_000)
        await gates.open("gated", 20_000)
        assert await live == expected
        await wire.send("GET", "/exports/csv?dataset=gated")
        assert await whole_digest(wire) == expected
        await export.until("completed")
        for _ in range(2):
            await wire.send("GET", export.path)
            assert await whole_digest(wire) == expected


async def test_pipelined_downloads_are_answered_in_order(gated: Gated, gates: Gates) -> None:
    server, export = await gated(20_000, rows=30_000)
    async with connection(server.url) as wire:
        for _ in range(3):
            await wire.send("GET", export.path)
        await gates.reached("gated", 20_000)
        await gates.open("gated", 20_000)
        for _ in range(3):
            assert await whole_digest(wire) == sha256(gated_csv(30_000))


@pytest.mark.parametrize("garbage", [b"\x00\xff\x16\x03\x01garbage\r\n\r\n", b"GET /exports HTTP/9.9\r\n: \r\n\r\n"])
async def test_pipelined_garbage_does_not_corrupt_the_download_before_it(
    gated: Gated, gates: Gates, garbage: bytes
) -> None:
    server, export = await gated(20_000)
    async with connection(server.url) as wire:
        await wire.send("GET", export.path)
        head, body = await wire.begin()
        assert head.status == 200
        wire.writer.write(garbage)
        await gates.reached("gated", 20_000)
        await gates.open("gated", 20_000)
        assert sha256(await body.whole()) == sha256(gated_csv())
        after = await wire.rest()
        assert after == b"" or after.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert sha256(await export.body()) == sha256(gated_csv())


async def test_many_downloads_of_one_completed_export_at_once_are_whole(
    server: Server, session: aiohttp.ClientSession
) -> None:
    export = await create(session, server.url)
    status = await export.until("completed")
    async with AsyncExitStack() as stack:
        responses = [await stack.enter_async_context(session.get(export.download)) for _ in range(10)]
        bodies = await asyncio.gather(*(response.read() for response in responses))
    assert {sha256(body) for body in bodies} == {status["sha256"]}
