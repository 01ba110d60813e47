"""Idempotency-Key: the same key and the same request are the same export, at any time and however many requests."""

import asyncio
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from yarl import URL

from streamer.http.api.exports import MAX_KEY
from streamer.jobs.times import JobTimes
from streamer.server import serving
from streamer.server.tuning import Tuning
from tests.conftest import Configure, Gated, Serve, Server, users_sha256
from tests.exporting import RemoteExport, create, read_problem, sha256
from tests.gates import Gates, gated_csv
from tests.polling import PATIENCE, until
from tests.proxy import proxied
from tests.rawhttp import connection

KEY = "8e03978e-40d5-43e8-bc93-6894a57f9324"
FIELDS = {"Idempotency-Key": KEY}


async def post(
    session: aiohttp.ClientSession, server: str, path: str = "/exports/csv", *, key: str = KEY, **parameters: str
) -> dict[str, Any]:
    """Returns the body of an accepted request."""
    async with session.post(f"{server}{path}", params=parameters, headers={"Idempotency-Key": key}) as response:
        assert response.status == 202, await response.text()
        found: dict[str, Any] = await response.json()
        target = response.url.join(URL(response.headers["Location"]))
        assert target.path == f"/exports/{found['exportId']}/status"
        return found


async def count(gates: Gates) -> int:
    return int(await gates.connection.fetchval("SELECT count(*) FROM streamer.exports"))


async def test_the_same_key_is_the_same_export_in_every_state(
    gated: Gated, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server, first = await gated(1, max_concurrent_exports=1, max_queued_exports=1)
    await gates.reached("gated", 1)
    asked = [await post(session, server.url, path, dataset="gated") for path in ("/exports/csv", "/exports") * 2]
    (export_id,) = {answer["exportId"] for answer in asked}
    assert {answer["status"] for answer in asked} == {"pending"}
    export = RemoteExport(session, server.url, export_id)
    await gates.open("gated", 1)
    status = await export.until("completed")
    assert (status["attempts"], status["sha256"]) == (1, sha256(gated_csv()))
    again = await post(session, server.url, dataset="gated")
    assert (again["exportId"], again["status"]) == (export_id, "completed")
    assert sha256(await export.body()) == sha256(gated_csv())
    assert await export.delete() == 204
    assert (await post(session, server.url, dataset="gated"))["exportId"] == export_id
    await first.until("completed")
    assert await count(gates) == 2


async def test_requests_with_one_key_at_once_are_one_export(
    server: Server, gates: Gates, session: aiohttp.ClientSession
) -> None:
    answers = await asyncio.gather(*(post(session, server.url, columns="id") for _ in range(20)))
    (export_id,) = {answer["exportId"] for answer in answers}
    assert await count(gates) == 1
    export = RemoteExport(session, server.url, export_id)
    assert sha256(await export.body()) == (await export.until("completed"))["sha256"] == users_sha256()
    assert server.files() == {export.file_name}


async def test_the_same_key_for_another_request_gets_422_and_creates_nothing(
    server: Server, gates: Gates, session: aiohttp.ClientSession
) -> None:
    export = RemoteExport(session, server.url, (await post(session, server.url, columns="id"))["exportId"])
    for other in ({"columns": "email"}, {"columns": "id", "delimiter": ";"}, {"columns": "id", "country_code": "US"}):
        async with session.post(f"{server.url}/exports/csv", params=other, headers=FIELDS) as response:
            problem = await read_problem(response, 422)
        assert problem["type"] == "urn:streamer:problem:idempotency-key-reused"
        assert "Idempotency-Key" in problem["detail"]
    assert await count(gates) == 1
    assert sha256(await export.body()) == users_sha256()


async def test_the_same_request_in_another_form_is_the_same_request(
    server: Server, gates: Gates, session: aiohttp.ClientSession
) -> None:
    first = await post(session, server.url, columns="id,email", country_code="US")
    async with session.post(
        f"{server.url}/exports", json={"columns": ["id", "email"], "country_code": "US"}, headers=FIELDS
    ) as response:
        assert (response.status, (await response.json())["exportId"]) == (202, first["exportId"])
    assert await count(gates) == 1


async def test_another_key_or_no_key_creates_another_export(
    server: Server, gates: Gates, session: aiohttp.ClientSession
) -> None:
    ids = {(await post(session, server.url, key=key, columns="id"))["exportId"] for key in ("a", "A", "b", "x" * 255)}
    ids |= {(await create(session, server.url, columns="id")).id for _ in range(2)}
    assert len(ids) == await count(gates) == 6


@pytest.mark.parametrize("key", ["", "x" * (MAX_KEY + 1), "tab\tstop", "caf\u00e9"])
async def test_an_invalid_key_gets_400_and_creates_nothing(
    server: Server, gates: Gates, session: aiohttp.ClientSession, key: str
) -> None:
    async with session.post(f"{server.url}/exports/csv", headers={"Idempotency-Key": key}) as response:
        problem = await read_problem(response, 400)
    assert problem["parameter"] == "Idempotency-Key"
    assert await count(gates) == 0


async def test_two_keys_get_400(server: Server, gates: Gates, session: aiohttp.ClientSession) -> None:
    fields = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    async with session.post(f"{server.url}/exports/csv", headers=fields) as response:
        assert (await read_problem(response, 400))["parameter"] == "Idempotency-Key"
    assert await count(gates) == 0


async def test_a_key_is_known_after_a_restart(
    configure: Configure, gates: Gates, session: aiohttp.ClientSession
) -> None:
    async with serving(configure()) as url:
        first = await post(session, url, columns="id")
        await RemoteExport(session, url, first["exportId"]).until("completed")
    async with serving(configure()) as url:
        again = await post(session, url, columns="id")
        assert (again["exportId"], again["status"]) == (first["exportId"], "completed")
        assert sha256(await RemoteExport(session, url, again["exportId"]).body()) == users_sha256()
    assert await count(gates) == 1


async def test_a_known_key_is_answered_when_the_queue_is_full(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 1)
    server = await serve(max_concurrent_exports=1, max_queued_exports=1, **gates.settings)
    await create(session, server.url, dataset="gated")
    await gates.reached("gated", 1)
    known = await post(session, server.url, dataset="gated")
    async with session.post(f"{server.url}/exports/csv", params={"dataset": "gated"}) as refused:
        await read_problem(refused, 429)
    assert (await post(session, server.url, dataset="gated"))["exportId"] == known["exportId"]
    await gates.open("gated", 1)
    await RemoteExport(session, server.url, known["exportId"]).until("completed")


async def test_an_insert_whose_answer_was_lost_is_found_by_the_key_and_run(
    configure: Configure, gates: Gates, database: str, session: aiohttp.ClientSession
) -> None:
    tuning = Tuning(jobs=JobTimes(lease=timedelta(seconds=0.5), renewal=timedelta(seconds=0.1)))
    async with proxied(database) as proxy, serving(configure(database_url=proxy.url), tuning=tuning) as url:
        proxy.hold_answer_to("INSERT INTO streamer.exports", commit=True)
        asking = asyncio.create_task(status_of_new(session, url))
        await asyncio.wait_for(proxy.holding.wait(), PATIENCE)
        await until_there_is_one(gates)
        await proxy.cut_links()
        proxy.release()
        assert await asking >= 500
        export = RemoteExport(session, url, (await post(session, url, columns="id"))["exportId"])
        assert (await export.until("completed"))["sha256"] == users_sha256()
        assert sha256(await export.body()) == users_sha256()
    assert await count(gates) == 1


async def status_of_new(session: aiohttp.ClientSession, url: str) -> int:
    async with session.post(f"{url}/exports/csv", params={"columns": "id"}, headers=FIELDS) as response:
        return response.status


async def until_there_is_one(gates: Gates) -> None:
    async def inserted() -> bool:
        return await count(gates) == 1

    await until(inserted, "the row is there")


async def test_a_client_that_left_before_the_answer_finds_its_export_by_the_key(
    configure: Configure, gates: Gates, database: str, session: aiohttp.ClientSession
) -> None:
    async with proxied(database) as proxy, serving(configure(database_url=proxy.url)) as url:
        proxy.hold_answer_to("INSERT INTO streamer.exports", commit=True)
        async with connection(url) as hasty:
            await hasty.send("POST", "/exports/csv?columns=id", {"Idempotency-Key": KEY, "Content-Length": "0"})
            await asyncio.wait_for(proxy.holding.wait(), PATIENCE)
            await until_there_is_one(gates)
        proxy.release()
        found = await post(session, url, columns="id")
        export = RemoteExport(session, url, found["exportId"])
        assert (await export.until("completed"))["sha256"] == users_sha256()
        assert sha256(await export.body()) == users_sha256()
    assert await count(gates) == 1
