"""Request bodies: limits on one, on all of them and on their time, and that nothing stays counted."""

import asyncio
from unittest.mock import Mock

import pytest
from aiohttp import StreamReader, web
from aiohttp.test_utils import make_mocked_request

from streamer.errors import BodyTooLarge, SlowBody, Unavailable
from streamer.http.api.request_bodies import BODIES_LIMIT, MAX_BODIES, MAX_BODY, RequestBodies


def request(*pieces: bytes, whole: bool = True, length: int | None = None) -> web.Request:
    """Returns a request whose body is received so far in these pieces."""
    payload = StreamReader(Mock(), 2**20, loop=asyncio.get_running_loop())
    for piece in pieces:
        payload.feed_data(piece)
    if whole:
        payload.feed_eof()
    fields = {} if length is None else {"Content-Length": str(length)}
    return make_mocked_request("POST", "/", fields, payload=payload)


async def test_body_in_pieces_is_read_whole() -> None:
    async with RequestBodies().read(request(b"{}", b" ", b"\n")) as body:
        assert body == b"{} \n"


async def test_request_without_a_body_has_an_empty_one() -> None:
    async with RequestBodies().read(make_mocked_request("GET", "/")) as body:
        assert body == b""


@pytest.mark.parametrize("length", [None, MAX_BODY + 1])
async def test_body_beyond_its_limit_is_refused(length: int | None) -> None:
    bodies = RequestBodies()
    async with bodies.read(request(bytes(MAX_BODY), length=MAX_BODY)) as body:
        assert len(body) == MAX_BODY
    with pytest.raises(BodyTooLarge):
        async with bodies.read(request(bytes(MAX_BODY), b"1", length=length)):
            pytest.fail("the body was read")


async def test_body_beyond_the_limit_of_all_is_refused_until_others_are_processed() -> None:
    bodies = RequestBodies()
    assert BODIES_LIMIT == 2 * MAX_BODY
    async with bodies.read(request(bytes(MAX_BODY))), bodies.read(request(bytes(MAX_BODY))):
        for _ in range(3):
            with pytest.raises(Unavailable, match=f"more than {BODIES_LIMIT} bytes"):
                async with bodies.read(request(b"1")):
                    pytest.fail("the body was read")
    async with bodies.read(request(b"1")) as body:
        assert body == b"1"


async def test_body_that_is_too_slow_is_refused_and_no_longer_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = RequestBodies(timeout=0.01)
    for _ in range(2 * MAX_BODIES):
        with pytest.raises(SlowBody, match=r"within 0\.01 s"):
            async with bodies.read(request(b"{", whole=False)):
                pytest.fail("the body was read")


async def test_more_bodies_than_the_limit_are_refused_while_they_are_received() -> None:
    bodies = RequestBodies()

    async def receive() -> None:
        async with bodies.read(request(b"{", whole=False)):
            pytest.fail("the body was read")

    receiving = [asyncio.create_task(receive()) for _ in range(MAX_BODIES)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="too many request bodies"):
        async with bodies.read(request(b"{}")):
            pytest.fail("the body was read")
    for task in receiving:
        task.cancel()
    await asyncio.wait(receiving)
    async with bodies.read(request(b"{}")) as body:
        assert body == b"{}"
