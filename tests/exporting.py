"""What the server tests share: an export as its client sees it."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from streamer.coding import Coding
from tests.polling import PATIENCE, until


def saved_as(coding: Coding = Coding.IDENTITY) -> re.Pattern[str]:
    """The form of Content-Disposition without `filename=`."""
    return re.compile(rf'attachment; filename="[a-z0-9_-]+_[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}{re.escape(coding.suffix)}"')


def sha256(pieces: bytes | Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in [pieces] if isinstance(pieces, bytes) else pieces:
        digest.update(piece)
    return digest.hexdigest()


@dataclass(frozen=True)
class RemoteExport:
    """An export, seen over HTTP."""

    session: aiohttp.ClientSession
    server: str  # its URL
    id: str

    @property
    def path(self) -> str:
        return f"/exports/{self.id}/download"

    @property
    def resource(self) -> str:
        return f"{self.server}/exports/{self.id}"

    @property
    def download(self) -> str:
        return f"{self.server}{self.path}"

    @property
    def file_name(self) -> str:
        return f"{self.id}.csv"

    async def status(self) -> dict[str, Any]:
        async with self.session.get(f"{self.resource}/status") as response:
            assert response.status == 200, await response.text()
            found: dict[str, Any] = await response.json()
            return found

    async def until(self, state: str, *, within: float = PATIENCE) -> dict[str, Any]:
        """The status once it says `state`; a final state other than that fails at once."""
        found: dict[str, Any] = {}

        async def there() -> bool:
            found.update(await self.status())
            if found["status"] != state and found["status"] in {"completed", "failed", "cancelled"}:
                pytest.fail(f"the export should become {state} and is {found['status']}: {found['error']}")
            return bool(found["status"] == state)

        await until(there, f"export {self.id} is {state}", within=within)
        return found

    async def body(self) -> bytes:
        """The whole of a download, which must be a 200."""
        async with self.session.get(self.download) as response:
            assert response.status == 200, await response.text()
            return await response.read()

    async def delete(self) -> int:
        """The HTTP status that DELETE answers."""
        async with self.session.delete(self.resource) as response:
            return response.status


async def create(
    session: aiohttp.ClientSession, server: str, *, body: object = None, **parameters: str
) -> RemoteExport:
    """`POST /exports/csv`, which must be accepted."""
    async with session.post(f"{server}/exports/csv", params=parameters, json=body) as response:
        assert response.status == 202, await response.text()
        return RemoteExport(session, server, (await response.json())["exportId"])


async def read_problem(response: aiohttp.ClientResponse, status: int) -> dict[str, Any]:
    """The members of an RFC 9457 problem, which must be complete and have this status."""
    assert response.status == status, f"{response.status}, not {status}: {await response.text()}"
    assert response.content_type == "application/problem+json"
    problem: dict[str, Any] = await response.json()
    assert {"type", "title", "status", "detail", "instance", "error"} <= problem.keys(), problem
    assert problem["status"] == status
    assert problem["detail"] == problem["error"] != ""
    assert problem["instance"] == response.url.path
    return problem
