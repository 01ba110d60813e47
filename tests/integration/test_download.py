"""Live and sealed downloads over real sockets, compared by hash with the CSV that the seeds' oracle computes."""

import hashlib

import aiohttp

from tests import seeds
from tests.conftest import ROWS, Server


def digest_of_users() -> str:
    digest = hashlib.sha256()
    for record in seeds.csv_bytes(seeds.rows(ROWS)):
        digest.update(record)
    return digest.hexdigest()


async def test_live_body_equals_sealed_body_equals_the_oracle(server: Server, session: aiohttp.ClientSession) -> None:
    async with session.post(f"{server.url}/exports/csv") as created:
        assert created.status == 202
        location = (await created.json())["links"]["download"]
    async with session.get(server.url + location) as live:
        assert "Content-Length" not in live.headers
        live_digest = hashlib.sha256(await live.read()).hexdigest()
    async with session.get(server.url + location) as sealed:
        assert int(sealed.headers["Content-Length"]) > 0
        sealed_digest = hashlib.sha256(await sealed.read()).hexdigest()
    assert live_digest == sealed_digest == digest_of_users()
