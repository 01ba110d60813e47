"""`GET /exports`: the list of exports, newest first, in pages, filtered by status and dataset."""

from typing import Any
from uuid import UUID

import aiohttp
import pytest

from streamer.http.api.listing import MAX_LIMIT
from tests.conftest import Serve, Server, connected
from tests.exporting import RemoteExport, create, read_problem
from tests.gates import Gates


async def page(session: aiohttp.ClientSession, server: Server, **query: str) -> dict[str, Any]:
    async with session.get(f"{server.url}/exports", params=query) as response:
        assert response.status == 200, await response.text()
        found: dict[str, Any] = await response.json()
        return found


def ids(found: dict[str, Any]) -> list[str]:
    return [export["exportId"] for export in found["exports"]]


async def several(session: aiohttp.ClientSession, server: Server, count: int) -> list[RemoteExport]:
    """Creates completed exports; returns them oldest first."""
    made = [await create(session, server.url, id__lte="10") for _ in range(count)]
    for export in made:
        await export.until("completed")
    return made


async def test_an_empty_list_is_one_page(server: Server, session: aiohttp.ClientSession) -> None:
    assert await page(session, server) == {"exports": [], "nextCursor": None}


async def test_pages_are_the_whole_list_newest_first(server: Server, session: aiohttp.ClientSession) -> None:
    made = [export.id for export in await several(session, server, 5)]
    found, query = [], {"limit": "2"}
    for expected in (2, 2, 1):
        part = await page(session, server, **query)
        assert len(part["exports"]) == expected
        found += ids(part)
        query["cursor"] = part["nextCursor"]
    assert part["nextCursor"] is None
    assert found == made[::-1]
    assert ids(await page(session, server)) == made[::-1]
    assert (await page(session, server, limit="5"))["nextCursor"] is None


async def test_an_export_created_between_two_pages_does_not_shift_them(
    server: Server, session: aiohttp.ClientSession
) -> None:
    made = [export.id for export in await several(session, server, 3)]
    first = await page(session, server, limit="1")
    await several(session, server, 2)
    second = await page(session, server, limit="2", cursor=first["nextCursor"])
    assert ids(first) + ids(second) == made[::-1]


async def test_each_entry_is_equal_to_the_status(server: Server, session: aiohttp.ClientSession) -> None:
    (export,) = await several(session, server, 1)
    assert (await page(session, server))["exports"] == [await export.status()]


async def test_the_list_contains_only_the_requested_states(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.dataset("short", "SELECT 1 AS id")
    server = await serve(**gates.settings)
    await gates.shut("gated", 1)
    running = await create(session, server.url, dataset="gated")
    cancelled = await create(session, server.url, dataset="gated")
    await cancelled.delete()
    done = await create(session, server.url, dataset="short")
    await done.until("completed")
    await running.until("processing")
    for states, expected in {
        "completed": [done],
        "cancelled": [cancelled],
        "completed,cancelled": [done, cancelled],
        "processing": [running],
        "failed": [],
    }.items():
        assert ids(await page(session, server, status=states)) == [export.id for export in expected]
    await gates.open("gated", 1)


async def test_the_list_contains_only_exports_of_the_requested_dataset(
    serve: Serve, gates: Gates, database: str, session: aiohttp.ClientSession
) -> None:
    """An export whose request this version cannot read is in the list of no dataset."""
    for name in ("first", "second", "users"):
        await gates.dataset(name, "SELECT 1 AS id")
    server = await serve(**gates.settings)
    of_first = [await create(session, server.url, dataset="first") for _ in range(2)]
    of_second = await create(session, server.url, dataset="second")
    newer, damaged = [await create(session, server.url, dataset="second") for _ in range(2)]
    for export in (*of_first, of_second, newer, damaged):
        await export.until("completed")
    async with connected(database) as hand:
        await hand.execute(
            "UPDATE streamer.exports SET spec = 'new form', spec_version = 2 WHERE id = $1", UUID(newer.id)
        )
        await hand.execute("UPDATE streamer.exports SET spec = '{' WHERE id = $1", UUID(damaged.id))
        await hand.execute(
            """UPDATE streamer.exports SET spec = replace(spec, '"version":1,', '') WHERE id = $1""",
            UUID(of_first[0].id),
        )
    assert ids(await page(session, server, dataset="first")) == [export.id for export in reversed(of_first)]
    assert ids(await page(session, server, dataset="second", status="completed")) == [of_second.id]
    assert ids(await page(session, server, dataset="users")) == []
    assert len(ids(await page(session, server))) == 5


async def test_a_page_of_large_requests_has_fewer_entries(server: Server, session: aiohttp.ClientSession) -> None:
    """A page is built in memory, so it ends before it becomes large."""
    names = [f"somebody with a long name {number}" for number in range(600)]
    made = [await create(session, server.url, body={"filters": {"name": names}}) for _ in range(3)]
    first = await page(session, server)
    assert ids(first) == [made[2].id, made[1].id]
    assert ids(await page(session, server, cursor=first["nextCursor"])) == [made[0].id]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        (f"limit={MAX_LIMIT + 1}", "limit"),
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=", "cursor"),
        ("cursor=1", "cursor"),
        ("cursor=1.2", "cursor"),
        ("status=done", "status"),
        ("status=", "status"),
        ("status=completed,", "status"),
        ("state=completed", "state"),
        ("dataset=users&dataset=users", "dataset"),
        ("dataset=", "dataset"),
    ],
)
async def test_the_answer_names_an_invalid_parameter(
    server: Server, session: aiohttp.ClientSession, query: str, parameter: str
) -> None:
    async with session.get(f"{server.url}/exports?{query}") as response:
        problem = await read_problem(response, 400)
    assert problem["parameter"] == parameter


async def test_head_has_no_body(server: Server, session: aiohttp.ClientSession) -> None:
    async with session.get(f"{server.url}/exports") as response:
        length = response.headers["Content-Length"]
    async with session.head(f"{server.url}/exports") as response:
        assert (response.status, response.headers["Content-Length"]) == (200, length)
        assert await response.read() == b""
