"""`label` and `ttl`, the properties of an export that do not change its rows."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from streamer.config import Duration, Names
from streamer.jobs.times import JobTimes
from streamer.server import serving
from streamer.server.tuning import Tuning
from tests.conftest import Configure, Serve, Server
from tests.exporting import RemoteExport, create, read_problem
from tests.gates import Gates
from tests.integration.sources import run_sql
from tests.polling import until

HOUR = timedelta(hours=1)
TUNING = Tuning(jobs=JobTimes(cache_lifetime=0.0, sweep_interval=0.05))
FEW = {"columns": "id", "id__lte": "10"}


attentive = pytest.mark.parametrize("tuning", [TUNING], ids=["attentive"])
"""Rows are not cached, and the sweep runs every 0.05 s."""


async def age(gates: Gates, by: timedelta) -> None:
    """Moves the completion of all exports into the past."""
    await gates.connection.execute("UPDATE streamer.exports SET finished_at = finished_at - $1::interval", by)


async def completed(session: aiohttp.ClientSession, server: Server, **parameters: str) -> RemoteExport:
    export = await create(session, server.url, **FEW, **parameters)
    await export.until("completed")
    return export


async def lifetime(export: RemoteExport) -> timedelta:
    """Returns the time from completion to `expiresAt`."""
    status = await export.status()
    return datetime.fromisoformat(status["expiresAt"]) - datetime.fromisoformat(status["completedAt"])


async def listed(session: aiohttp.ClientSession, server: Server, **query: str) -> list[str]:
    """Returns the ids of all pages."""
    found: list[str] = []
    while True:
        async with session.get(f"{server.url}/exports", params=query) as response:
            assert response.status == 200, await response.text()
            page = await response.json()
        found += [export["exportId"] for export in page["exports"]]
        if page["nextCursor"] is None:
            return found
        query["cursor"] = page["nextCursor"]


# Lifetimes


@attentive
async def test_an_export_expires_when_its_own_time_is_over(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server = await serve(export_ttl=Duration(24 * 3600))
    short, longer, usual = [
        await completed(session, server, **asked) for asked in ({"ttl": "2h"}, {"ttl": "10800.5"}, {})
    ]
    assert [await lifetime(each) for each in (short, longer, usual)] == [
        2 * HOUR,
        3 * HOUR + timedelta(seconds=0.5),
        24 * HOUR,
    ]
    assert [(await each.status())["ttl"] for each in (short, longer, usual)] == [7200, 10800.5, None]
    await age(gates, 2 * HOUR)
    await server.holds(longer, usual)
    async with session.get(short.download) as response:
        await read_problem(response, 410)
    assert ((await short.status())["expiresAt"], (await short.status())["ttl"]) == (None, 7200)
    await age(gates, 2 * HOUR)
    await server.holds(usual)


async def test_an_unfinished_export_does_not_expire(serve: Serve, gates: Gates, session: aiohttp.ClientSession) -> None:
    await gates.view("gated")
    await gates.shut("gated", 1)
    server = await serve(**gates.settings)
    export = await create(session, server.url, dataset="gated", ttl="0.001")
    await gates.reached("gated", 1)
    status = await export.status()
    assert (status["expiresAt"], status["ttl"]) == (None, 0.001)
    await gates.open("gated", 1)
    await export.until("completed")


async def test_no_export_is_kept_longer_than_the_current_export_ttl(
    configure: Configure, gates: Gates, session: aiohttp.ClientSession
) -> None:
    async with serving(configure(export_ttl=Duration(24 * 3600)), tuning=TUNING) as url:
        server = Server(url, configure())
        short, long, usual = [
            await completed(session, server, **asked) for asked in ({"ttl": "1h"}, {"ttl": "20h"}, {})
        ]
    settings = configure(export_ttl=Duration(10 * 3600))
    async with serving(settings, tuning=TUNING) as url:
        server = Server(url, settings)
        again = [RemoteExport(session, url, each.id) for each in (short, long, usual)]
        assert [await lifetime(each) for each in again] == [HOUR, 10 * HOUR, 10 * HOUR]
        await age(gates, 2 * HOUR)
        await server.holds(*again[1:])
        await age(gates, 8 * HOUR)
        await server.holds()


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/exports/csv"), ("POST", "/exports/csv"), ("POST", "/exports")], ids=repr
)
async def test_every_way_to_create_an_export_takes_label_and_ttl(
    serve: Serve, session: aiohttp.ClientSession, method: str, path: str
) -> None:
    server = await serve(export_ttl=Duration(24 * 3600))
    for given in (
        {"params": {**FEW, "label": "Month end", "ttl": "90m"}},
        {"json": {**FEW, "label": "Month end", "ttl": 5400}},
    ):
        async with session.request(method, server.url + path, **given) as response:
            assert response.status == (200 if method == "GET" else 202), await response.text()
            found = response.headers.get("X-Export-Id") or (await response.json())["exportId"]
            await response.read()
        export = RemoteExport(session, server.url, found)
        status = await export.until("completed")
        assert (status["label"], status["ttl"], await lifetime(export)) == ("Month end", 5400, 1.5 * HOUR)
        assert not {"label", "ttl"} & status["query"].keys()
    bad: list[dict[str, Any]] = [
        {"ttl": "25h"}, {"ttl": "0"}, {"ttl": "-1"}, {"ttl": "soon"}, {"ttl": ""}, {"ttl": "0.0000001"},
        {"ttl": "99999999999d"}, {"label": ""}, {"label": "   "}, {"label": "x" * 101}, {"label": "a\tb"},
        {"label": "a\u2028b"}, {"label": "a\u202eb"}, {"label": "a\0b"}, {"label": "\x7f"},
    ]  # fmt: skip
    for asked in bad:
        async with session.request(method, server.url + path, params=asked) as response:
            problem = await read_problem(response, 400)
        (name,) = asked
        assert problem["parameter"] == name
        assert ("at most EXPORT_TTL, 1d" if name == "ttl" else "") in problem["detail"]
    bodies: list[dict[str, Any]] = [
        {"label": "\ud800"},
        {"label": ["a"]},
        {"ttl": [1, 2]},
        {"ttl": True},
        {"label": {}},
    ]
    for body in bodies:
        async with session.request(method, server.url + path, json=body) as response:
            assert (await read_problem(response, 400))["parameter"] in body
    assert len(await listed(session, server)) == 2


async def test_head_creates_nothing_and_refuses_as_get_does(server: Server, session: aiohttp.ClientSession) -> None:
    for ttl, status in (("1h", 200), ("25h", 400)):
        async with session.head(f"{server.url}/exports/csv", params={"ttl": ttl}) as response:
            assert response.status == status
    assert await listed(session, server) == []


# The idempotency key


async def test_label_and_ttl_are_a_part_of_the_request_that_a_key_stands_for(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    server = await serve()

    async def post(status: int, **asked: str) -> str:
        async with session.post(
            f"{server.url}/exports/csv", params={**FEW, **asked}, headers={"Idempotency-Key": "k"}
        ) as response:
            assert response.status == status, await response.text()
            return str((await response.json()).get("exportId"))

    first = await post(202, label="Q3", ttl="2h")
    assert await post(202, label="Q3", ttl="7200") == first
    for other in ({"label": "Q3"}, {"ttl": "2h"}, {"label": "q3", "ttl": "2h"}, {"label": "Q3", "ttl": "7201"}, {}):
        await post(422, **other)
    await RemoteExport(session, server.url, first).until("completed")
    assert await post(202, label="Q3", ttl="120m") == first


# Labels


async def test_a_search_for_labels_works_with_states_and_pages(server: Server, session: aiohttp.ClientSession) -> None:
    labels = [
        "Monthly 100%",
        "monthly_report",
        "Größe MÜNCHEN",
        "Mu\u0308nchen",
        "STRASSE",
        "Straße",
        "Report'; --",
        None,
    ]
    made = {
        label: (await completed(session, server, **({} if label is None else {"label": label}))).id for label in labels
    }
    deleted = await create(session, server.url, **FEW, label="Monthly, deleted")
    await deleted.until("completed")
    searches = {
        "MONTHLY": ["Monthly 100%", "monthly_report"],
        "100%": ["Monthly 100%"],
        "%": ["Monthly 100%"],
        "_": ["monthly_report"],
        "münchen": ["Größe MÜNCHEN", "Mu\u0308nchen"],
        "strasse": ["STRASSE", "Straße"],
        "STRAß": ["STRASSE", "Straße"],
        "'; --": ["Report'; --"],
        "report": ["monthly_report", "Report'; --"],
        "\\": [],
        "nothing": [],
    }
    for text, expected in searches.items():
        wanted = [made[label] for label in expected][::-1]
        if "monthly".startswith(text.lower()) or text.lower() in "monthly, deleted":
            wanted.insert(0, deleted.id)
        assert await listed(session, server, label=text) == wanted, text
        assert await listed(session, server, label=text, limit="1") == wanted, text
        assert await listed(session, server, label=text, status="completed") == wanted
        assert await listed(session, server, label=text, status="failed") == []
    assert len(await listed(session, server)) == len(labels) + 1


@pytest.mark.parametrize("query", ["label=", "label=%20", f"label={'x' * 101}", "label=a%0Ab", "label=a&label=b"])
async def test_a_search_for_an_invalid_label_is_refused(
    server: Server, session: aiohttp.ClientSession, query: str
) -> None:
    async with session.get(f"{server.url}/exports?{query}") as response:
        assert (await read_problem(response, 400))["parameter"] == "label"


async def test_columns_named_label_and_ttl_can_be_filtered(
    database: str, serve: Serve, session: aiohttp.ClientSession
) -> None:
    await run_sql(database, "CREATE TABLE goods (label text, ttl int)", "INSERT INTO goods VALUES ('a', 1), ('b', 2)")
    server = await serve(source_database_url=database, datasets=Names(("goods",)))
    bodies: dict[str, dict[str, Any]] = {
        "label,ttl\na,1\nb,2\n": {"label": "a", "ttl": 60, "filters": {}},
        "label,ttl\na,1\n": {"label__in": "a", "label": "b", "filters": {"ttl": 1}},
        "label,ttl\nb,2\n": {"filters": {"label": "b", "ttl": "2"}},
    }
    for expected, body in bodies.items():
        export = await create(session, server.url, body={"dataset": "goods", **body})
        assert (await export.body()).decode() == expected
        assert (await export.status())["label"] == body.get("label")
    for refused in ({"filters": {"label": None}}, {"label": "a", "filters": {"label": "b"}}, {"label": "a"}):
        async with session.post(f"{server.url}/exports/csv", json={"dataset": "goods", **refused}) as response:
            assert (await read_problem(response, 400))["parameter"] == "label"
    for name in ("label", "ttl"):  # a condition that was taken for the export's own would export every row
        async with session.get(f"{server.url}/exports/csv", params={"dataset": "goods", name: "1"}) as response:
            problem = await read_problem(response, 400)
        assert problem["parameter"] == name
        assert f"{name}__in" in problem["detail"]
        assert "filters" in problem["detail"]


async def test_an_export_that_is_run_again_keeps_label_and_ttl(
    configure: Configure, gates: Gates, session: aiohttp.ClientSession
) -> None:
    """The first server stops, and the next one runs the export."""
    await gates.view("gated")
    await gates.shut("gated", 1)
    settings = configure(**gates.settings)
    async with serving(settings) as url:
        export = await create(session, url, dataset="gated", label="Month end", ttl="1h")
        await gates.reached("gated", 1)
    await gates.open("gated", 1)
    async with serving(settings) as url:
        export = RemoteExport(session, url, export.id)
        status = await export.until("completed")
        assert (status["label"], await lifetime(export)) == ("Month end", HOUR)


async def test_a_row_without_label_and_ttl_is_shown_and_not_found_by_label(
    server: Server, gates: Gates, session: aiohttp.ClientSession
) -> None:
    """As servers without these columns have inserted it, and not begun for an hour."""
    export_id = await gates.connection.fetchval(
        "INSERT INTO streamer.exports (id, state, spec, not_before, idempotency_key, spec_version)"
        " SELECT gen_random_uuid(), 'pending', spec, now() + interval '1 hour', 'theirs', 1"
        ' FROM (VALUES (\'{"version":1,"dataset":"users","columns":["id"]}\')) AS asked (spec) RETURNING id'
    )
    theirs = RemoteExport(session, server.url, str(UUID(str(export_id))))
    assert [(await theirs.status())[name] for name in ("status", "label", "ttl")] == ["pending", None, None]
    ours = await create(session, server.url, **FEW, label="Ours", ttl="1h")
    await ours.until("completed")
    await gates.connection.execute(
        "UPDATE streamer.exports SET state = 'completed', finished_at = clock_timestamp(), removed_at = now()"
        " WHERE id = $1",
        export_id,
    )

    async def ended() -> bool:
        return bool((await theirs.status())["status"] == "completed")

    await until(ended, "the row of the other server says so")
    assert await listed(session, server, label="ours") == [ours.id]
