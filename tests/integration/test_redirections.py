"""The client at servers that redirect: a request reaches the right server once, or no server.

There are two real servers: one redirects every request, the other one records the requests and answers as a streamer.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from streamer.client import Client, Refused, RetryPolicy
from tests.integration.pretender import Pretender, pretending

CONTENT = b"id\n" + b"1\n" * 40_000
KEY = "secret"
ONCE = RetryPolicy(attempts=2, max_backoff=0.01, read_timeout=5.0)


@dataclass
class Gateway:
    """Redirects every request to the same path at `to`, with `status`."""

    to: str
    url: str = ""
    status: int = 302
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path, request.headers.get("Authorization")))
        return web.Response(status=self.status, headers={"Location": self.to + request.path_qs})


@pytest.fixture
async def pretender() -> AsyncIterator[Pretender]:
    async with pretending(CONTENT) as pretender:
        yield pretender


@pytest.fixture
async def gateway(pretender: Pretender) -> AsyncIterator[Gateway]:
    gateway = Gateway(pretender.url)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", gateway.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        gateway.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield gateway
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_post_redirected_to_another_origin_is_refused_and_the_url_named(
    gateway: Gateway, pretender: Pretender, status: int
) -> None:
    gateway.status = status
    async with Client(gateway.url, KEY, retry_policy=ONCE) as client:
        with pytest.raises(Refused, match=f"redirects to {pretender.url}/exports/csv; a POST is not redirected"):
            await client.export(where={"country_code": "US"})
    assert gateway.asked == [("POST", "/exports/csv", f"Bearer {KEY}")]
    assert (pretender.keys, pretender.authorizations) == ([], set())


@pytest.mark.parametrize("verb", ["cancel", "delete"])
@pytest.mark.parametrize("status", [301, 302, 303, 307])
async def test_a_redirected_cancel_or_delete_is_refused(
    gateway: Gateway, pretender: Pretender, verb: str, status: int
) -> None:
    gateway.status = status
    async with Client(gateway.url, retry_policy=ONCE) as client:
        with pytest.raises(Refused, match="use that address"):
            await getattr(client.get(pretender.id), verb)()
    assert pretender.state == "completed"
    assert len(gateway.asked) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirected_download_is_followed_without_the_api_key(
    gateway: Gateway, pretender: Pretender, status: int, tmp_path: Path
) -> None:
    gateway.status = status
    async with Client(gateway.url, KEY, retry_policy=ONCE) as client:
        await client.get(pretender.id).save(tmp_path / "users.csv")
    assert (tmp_path / "users.csv").read_bytes() == CONTENT
    assert {key for _, _, key in gateway.asked} == {f"Bearer {KEY}"}
    assert pretender.authorizations == {None}


@pytest.mark.parametrize("status", [307, 308])
async def test_a_post_redirected_within_the_server_keeps_its_body_and_key(status: int) -> None:
    sent = []

    async def moved(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": "/v2/exports"})

    async def create(request: web.Request) -> web.StreamResponse:
        sent.append((await request.json(), request.headers["Authorization"], request.headers["Idempotency-Key"]))
        return web.json_response({"exportId": "00000000-0000-0000-0000-000000000000"}, status=202)

    app = web.Application()
    app.add_routes([web.post("/exports/csv", moved), web.post("/v2/exports", create)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with Client(f"http://127.0.0.1:{runner.addresses[0][1]}", KEY, retry_policy=ONCE) as client:
            await client.export(where={"id": 1})
    finally:
        await runner.cleanup()
    [(body, key, _)] = sent
    assert (body, key) == ({"filters": {"id": 1}}, f"Bearer {KEY}")


async def test_a_redirection_loop_is_an_error(gateway: Gateway, pretender: Pretender) -> None:
    gateway.to = gateway.url
    async with Client(gateway.url, retry_policy=ONCE) as client:
        with pytest.raises(Refused, match="redirects more than 10 times"):
            await client.get(pretender.id).status()
    assert len(gateway.asked) == 10


async def test_the_key_of_one_server_is_not_sent_to_the_export_of_another(
    gateway: Gateway, pretender: Pretender
) -> None:
    async with Client(gateway.url, KEY, retry_policy=ONCE) as client:
        await client.get(pretender.download).status()
    assert (gateway.asked, pretender.authorizations) == ([], {None})
