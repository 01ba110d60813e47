"""A server with the API of streamer and wrong answers on demand, for tests of the client."""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from aiohttp import web

from streamer.protocol.digest import repr_digest
from streamer.protocol.ranges import Slices, content_range, select

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Pretender:
    """One completed export. Each of `downloads` and `statuses` is the answer to the next request of its kind."""

    def __init__(self, content: bytes) -> None:
        self.id = uuid4()
        self.url = ""
        self.content = content
        self.etag = f'"{self.id}"'
        self.gzip: bytes | None = None  # the compressed file; an older server has none
        self.gzip_etag = f'"{self.id}-gzip"'
        self.gzip_state = "completed"
        self.state = "completed"
        self.sha256: str | None = hashlib.sha256(content).hexdigest()
        self.downloads: list[Answer] = []
        self.statuses: list[Answer] = []
        self.keys: list[str | None] = []
        self.ranges: list[str | None] = []
        self.authorizations: set[str | None] = set()
        self.lists: list[dict[str, str]] = []  # the queries of requests for the list, which has three pages

    @property
    def download(self) -> str:
        return f"{self.url}/exports/{self.id}/download"

    def replace(self, content: bytes, etag: str | None = None) -> None:
        """Another file under the same id."""
        self.content = content
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.etag = etag or self.etag

    def status(self) -> dict[str, Any]:
        complete = self.state == "completed"
        progress = {
            "processedRows": 1,
            "totalRows": 1 if complete else 2,
            "estimated": not complete,
            "bytes": len(self.content),
            "percentage": 100.0 if complete else 50.0,
        }
        return {
            "exportId": str(self.id),
            "status": self.state,
            "progress": progress,
            "etag": self.etag,
            "sha256": self.sha256,
            "error": None,
            **({} if self.gzip is None else {"representations": {"gzip": self._gzip_status(self.gzip)}}),
        }

    def _gzip_status(self, content: bytes) -> dict[str, Any]:
        sha256 = hashlib.sha256(content).hexdigest()
        if self.gzip_state != "completed":
            return {"state": self.gzip_state, "etag": self.gzip_etag, "bytes": 0}
        return {"state": "completed", "etag": self.gzip_etag, "bytes": len(content), "sha256": sha256}

    async def answer_status(self, request: web.Request) -> web.StreamResponse:
        self.authorizations.add(request.headers.get("Authorization"))
        if self.statuses:
            return await self.statuses.pop(0)(request)
        return web.json_response(self.status())

    async def answer_download(self, request: web.Request) -> web.StreamResponse:
        self.ranges.append(request.headers.get("Range"))
        self.authorizations.add(request.headers.get("Authorization"))
        if self.downloads:
            return await self.downloads.pop(0)(request)
        if self.state == "processing":
            return await self._growing(request)
        return self.honest(request)

    async def answer_gzip(self, request: web.Request) -> web.StreamResponse:
        if self.gzip is None:
            return web.json_response({"detail": "no such path"}, status=404, content_type="application/problem+json")
        return await self.answer_download(request)

    async def create(self, request: web.Request) -> web.StreamResponse:
        self.keys.append(request.headers.get("Idempotency-Key"))
        if self.statuses:
            return await self.statuses.pop(0)(request)
        return web.json_response({"exportId": str(self.id), "status": self.state}, status=202)

    async def list(self, request: web.Request) -> web.StreamResponse:
        self.lists.append(dict(request.query))
        return web.json_response({"exports": [self.status()], "nextCursor": "next" if len(self.lists) < 3 else None})

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        self.state = "cancelled"
        return web.json_response({"jobId": str(self.id), "exportId": str(self.id), "status": self.state})

    async def _growing(self, request: web.Request) -> web.StreamResponse:
        """Sends the content, and then nothing more."""
        response = web.StreamResponse(headers={"ETag": self.etag})
        await response.prepare(request)
        await response.write(self.content)
        await asyncio.Event().wait()
        return response

    def honest(self, request: web.Request) -> web.Response:
        content, etag = self.content, self.etag
        if request.path.endswith(".gz") and self.gzip is not None:
            content, etag = self.gzip, self.gzip_etag
        headers = {"ETag": etag, "Repr-Digest": repr_digest(hashlib.sha256(content).digest())}
        matches = request.headers.get("If-Range", etag) == etag
        selected = select(request.headers.get("Range") if matches else None, len(content))
        if not isinstance(selected, Slices):
            return web.Response(body=content, headers=headers)
        piece = selected.slices[0]
        headers["Content-Range"] = content_range(piece, len(content))
        return web.Response(status=206, body=content[piece.start : piece.stop], headers=headers)


def says(status: int, *, headers: dict[str, str] | None = None, detail: str | None = None) -> Answer:
    """A refusal: a problem with this sentence, or a page of HTML."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if detail is None:
            return web.Response(status=status, text="<html>Hello</html>", content_type="text/html", headers=headers)
        problem = {"detail": detail}
        return web.json_response(problem, status=status, headers=headers, content_type="application/problem+json")

    return answer


def breaks_after(pretender: Pretender, count: int) -> Answer:
    """The beginning of an honest answer, and then the end of the connection."""

    async def answer(request: web.Request) -> web.StreamResponse:
        honest = pretender.honest(request)
        assert isinstance(honest.body, bytes)
        response = web.StreamResponse(status=honest.status, headers=honest.headers)
        response.content_length = len(honest.body)
        await response.prepare(request)
        await response.write(honest.body[:count])
        assert request.transport
        request.transport.close()
        return response

    return answer


@asynccontextmanager
async def pretending(content: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[Pretender]:
    pretender = Pretender(content)
    app = web.Application()
    app.add_routes(
        [
            web.get("/exports/{id}/status", pretender.answer_status),
            web.get("/exports/{id}/download", pretender.answer_download),
            web.get("/exports/{id}/download.csv.gz", pretender.answer_gzip),
            web.get("/exports", pretender.list),
            web.post("/exports/csv", pretender.create),
            web.post("/exports/{id}/cancel", pretender.cancel),
        ]
    )
    runner = web.AppRunner(app, shutdown_timeout=0.1)  # endless answers are cancelled
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        pretender.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield pretender
    finally:
        await runner.cleanup()
