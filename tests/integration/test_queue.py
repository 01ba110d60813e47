"""The queue: a limit on exports that run at once, their order, and a limit on exports that wait."""

import asyncio
from datetime import datetime, timedelta

import aiohttp
import pytest

from streamer.errors import Unavailable
from streamer.jobs.queue import Queue
from streamer.jobs.times import JobTimes
from streamer.server import serving
from streamer.server.tuning import Tuning
from tests.conftest import Configure, Gated, Serve
from tests.exporting import RemoteExport, create, read_problem, sha256
from tests.gates import Gates, gated_csv


async def states(*exports: RemoteExport) -> list[str]:
    return [(await export.status())["status"] for export in exports]


async def moment(export: RemoteExport, name: str) -> datetime:
    return datetime.fromisoformat((await export.status())[name])


async def count_of_exports(gates: Gates) -> int:
    count: int = await gates.connection.fetchval("SELECT count(*) FROM streamer.exports")
    return count


async def test_three_run_at_once_and_the_fourth_starts_when_one_of_them_ends(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_ends_start = Tuning(jobs=JobTimes(renewal=timedelta(hours=1)))
    names = [f"gated_{number}" for number in range(4)]
    for name in names:
        await gates.view(name)
        await gates.shut(name, 50_000)
    server = await serve(max_concurrent_exports=3, tuning=only_ends_start, **gates.settings)
    exports = [await create(session, server.url, dataset=name) for name in names]
    for name in names[:3]:
        await gates.reached(name, 50_000)
    assert await states(*exports) == ["processing", "processing", "processing", "pending"]
    followers = [asyncio.create_task(export.body()) for export in exports]
    await gates.open(names[1], 50_000)
    await gates.reached(names[3], 50_000)
    assert await states(*exports) == ["processing", "completed", "processing", "processing"]
    assert await moment(exports[3], "startedAt") >= await moment(exports[1], "completedAt")
    for name in (names[0], names[2], names[3]):
        await gates.open(name, 50_000)
    assert {sha256(body) for body in await asyncio.gather(*followers)} == {sha256(gated_csv())}
    for export in exports:
        assert (await export.until("completed"))["sha256"] == sha256(gated_csv())


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_exports_begin_in_the_order_of_their_creation(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession, concurrency: int
) -> None:
    await gates.view("gated", rows=20_000)
    await gates.shut("gated", 1)
    server = await serve(max_concurrent_exports=concurrency, **gates.settings)
    exports = [await create(session, server.url, dataset="gated") for _ in range(8)]
    await gates.reached("gated", 1)
    await gates.open("gated", 1)
    for export in exports:
        assert (await export.until("completed"))["sha256"] == sha256(gated_csv(20_000))
    started = [await moment(export, "startedAt") for export in exports]
    assert started == sorted(started)
    ended = sorted([await moment(export, "completedAt") for export in exports])
    assert all(earlier <= later for earlier, later in zip(ended, started[concurrency:], strict=False))


async def test_the_next_export_begins_when_one_fails_or_is_cancelled(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated")
    await gates.shut("gated", 50_000)
    await gates.dataset("failing", "SELECT 1 / (id - 60000) AS quotient FROM gated")
    server = await serve(max_concurrent_exports=1, **gates.settings)
    cancelled = await create(session, server.url, dataset="gated")
    failed = await create(session, server.url, dataset="failing")
    last = await create(session, server.url, dataset="gated")
    await gates.reached("gated", 50_000)
    assert await cancelled.delete() == 204
    await failed.until("processing")
    await gates.open("gated", 50_000)
    assert "division by zero" in (await failed.until("failed"))["error"]
    assert (await last.until("completed"))["sha256"] == sha256(gated_csv())


async def test_a_full_queue_answers_429_and_keeps_its_exports(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated", rows=20_000)
    await gates.shut("gated", 10_000)
    server = await serve(max_concurrent_exports=1, max_queued_exports=2, **gates.settings)
    exports = [await create(session, server.url, dataset="gated")]
    await gates.reached("gated", 10_000)
    exports += [await create(session, server.url, dataset="gated") for _ in range(2)]
    for method, path in (("POST", "/exports/csv"), ("POST", "/exports"), ("GET", "/exports/csv")):
        async with session.request(method, f"{server.url}{path}", params={"dataset": "gated"}) as refused:
            problem = await read_problem(refused, 429)
            assert "2 exports are waiting" in problem["detail"]
            assert int(refused.headers["Retry-After"]) > 0
    assert await count_of_exports(gates) == 3
    followers = [asyncio.create_task(export.body()) for export in exports]
    await gates.open("gated", 10_000)
    assert {sha256(body) for body in await asyncio.gather(*followers)} == {sha256(gated_csv(20_000))}
    for export in exports:
        await export.until("completed")
    late = await create(session, server.url, dataset="gated")
    assert sha256(await late.body()) == sha256(gated_csv(20_000))


async def test_a_queue_accepts_an_export_when_a_queued_one_is_cancelled(
    gated: Gated, gates: Gates, session: aiohttp.ClientSession
) -> None:
    server, running = await gated(10_000, rows=20_000, max_concurrent_exports=1, max_queued_exports=1)
    await gates.reached("gated", 10_000)
    waiting = await create(session, server.url, dataset="gated")
    async with session.post(f"{server.url}/exports/csv", params={"dataset": "gated"}) as refused:
        await read_problem(refused, 429)
    assert await waiting.delete() == 204
    instead = await create(session, server.url, dataset="gated")
    await gates.open("gated", 10_000)
    for export in (running, instead):
        assert (await export.until("completed"))["sha256"] == sha256(gated_csv(20_000))


async def test_concurrent_requests_do_not_exceed_the_capacity_of_the_queue(
    serve: Serve, gates: Gates, session: aiohttp.ClientSession
) -> None:
    await gates.view("gated", rows=20_000)
    await gates.shut("gated", 10_000)
    server = await serve(max_concurrent_exports=1, max_queued_exports=2, **gates.settings)
    await create(session, server.url, dataset="gated")
    await gates.reached("gated", 10_000)

    async def post() -> int:
        async with session.post(f"{server.url}/exports/csv", params={"dataset": "gated"}) as response:
            return response.status

    answers = await asyncio.gather(*(post() for _ in range(30)))
    assert sorted(answers) == [202] * 2 + [429] * 28
    assert await count_of_exports(gates) == 3


@pytest.mark.parametrize("answer", ["no answer", "known already"])
async def test_an_insert_that_ends_after_the_server_has_stopped_logs_no_error(
    configure: Configure,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answer: str,
) -> None:
    begun, stopped, told = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def late(*_: object, begin: bool) -> None:
        begun.set()
        await stopped.wait()
        told.set()
        if answer == "no answer":
            raise Unavailable("the database does not answer")

    monkeypatch.setattr(Queue, "accept", late)
    async with serving(configure()) as url:
        asking = asyncio.create_task(session.post(f"{url}/exports/csv", headers={"Idempotency-Key": "late"}))
        await begun.wait()
    with pytest.raises(aiohttp.ClientError):
        await asking
    stopped.set()
    await told.wait()
    await asyncio.sleep(0)
    assert "submit ended badly" not in caplog.text
