"""Clients that close their sending side after a request, as `printf … | nc -N` does, and clients that have left."""

import asyncio
import re

import aiohttp
import pytest

from tests.conftest import ROWS, Serve, Server
from tests.exporting import create, sha256
from tests.gates import Gates
from tests.polling import PATIENCE, until
from tests.rawhttp import Connection, End, connection, request


async def said(wire: Connection, *requests: bytes) -> None:
    wire.writer.write(b"".join(requests))
    wire.writer.write_eof()
    await wire.writer.drain()


async def test_half_closed_client_gets_a_completed_export_and_then_the_end(
    server: Server, session: aiohttp.ClientSession
) -> None:
    export = await create(session, server.url)
    digest = (await export.until("completed"))["sha256"]
    for fields in ({}, {"Accept-Encoding": "gzip"}, {"Range": "bytes=0-9999999"}):
        async with connection(server.url, receive=4096) as wire:
            await said(wire, request("GET", export.path, fields))
            head, body = await wire.begin()
            whole = await body.whole()
            assert head.status == (206 if fields.get("Range") else 200)
            assert await wire.ended()
        if not fields:
            assert sha256(whole) == digest
    assert ROWS > 0


async def test_all_pipelined_requests_of_a_half_closed_client_are_answered(server: Server) -> None:
    async with connection(server.url) as wire:
        await said(wire, *(request("GET", path, {}) for path in ("/health", "/datasets", "/nothing")))
        assert [(await wire.answer()).status for _ in range(3)] == [200, 200, 404]
        assert await wire.ended()


async def test_half_closed_client_creates_an_export_and_reads_the_response(
    server: Server, session: aiohttp.ClientSession
) -> None:
    body = b'{"columns": "id"}'
    async with connection(server.url) as wire:
        await said(wire, request("POST", "/exports/csv", {"Content-Length": str(len(body))}), body)
        answer = await wire.answer("POST")
        assert (answer.status, await wire.ended()) == (202, True)
    async with session.get(f"{server.url}/exports/{answer.json()['exportId']}") as response:
        assert (await response.json())["columns"] == ["id"]


@pytest.mark.parametrize("sent", [b"", b"GET /heal", request("POST", "/exports/csv", {"Content-Length": "9"}) + b"{"])
async def test_incomplete_request_of_a_half_closed_client_is_dropped(server: Server, sent: bytes) -> None:
    async with connection(server.url) as wire:
        await said(wire, sent)
        assert await asyncio.wait_for(wire.rest(), PATIENCE / 4) == b""


async def test_idle_connection_is_closed_when_the_client_closes_it(server: Server) -> None:
    async with connection(server.url) as wire:
        assert (await wire.ask("GET", "/health")).status == 200
        await said(wire)
        assert await asyncio.wait_for(wire.ended(), PATIENCE / 4)


async def test_half_closed_follower_is_disconnected(serve: Serve, gates: Gates, session: aiohttp.ClientSession) -> None:
    """Otherwise the slot of a client that was killed would be held for as long as the database sorts."""
    await gates.view("gated")
    await gates.shut("gated", 1)
    server = await serve(max_downloads=1, **gates.settings)
    export = await create(session, server.url, dataset="gated")

    async def free() -> bool:
        async with session.head(export.download) as response:
            return response.status == 200

    async with connection(server.url) as wire:
        await wire.send("GET", export.path)
        _, body = await wire.begin()
        await said(wire)
        assert await body.finish() is End.CLOSED
    await until(free, "the slot of a follower that has left is not released")
    await gates.open("gated", 1)


@pytest.mark.parametrize(("method", "path"), [("POST", "/exports/csv"), ("GET", "/health"), ("GET", "/nothing")])
async def test_unknown_expectation_gets_a_problem(server: Server, method: str, path: str) -> None:
    async with connection(server.url) as wire:
        answer = await wire.ask(method, path, {"Expect": "a-miracle"})
    assert (answer.status, answer["Content-Type"]) == (417, "application/problem+json")
    assert answer.json()["detail"] == "there is no expectation 'a-miracle'; Expect may be 100-continue"
    assert answer.json()["instance"] == path


async def test_expect_100_continue_is_answered(server: Server) -> None:
    fields = {"Expect": "100-continue", "Content-Length": "2"}
    async with connection(server.url) as wire:
        await wire.send("POST", "/exports/csv", fields)
        assert re.match(rb"HTTP/1.1 100 ", await wire.reader.readuntil(b"\r\n\r\n"))
        wire.writer.write(b"{}")
        assert (await wire.answer("POST")).status == 202
