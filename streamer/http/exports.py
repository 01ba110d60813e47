"""Create, status, cancel: the exports as resources, in both dialects that clients speak."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
from aiohttp import web

from streamer.errors import BadParameter, NotFound, SlowBody, Unavailable, shown
from streamer.http.listing import cursor, read_page
from streamer.http.parameters import Parameters
from streamer.http.status import links, parameter_of, representation
from streamer.http.target import read_query
from streamer.jobs.queue import ExportQueue
from streamer.model import Export, ExportSpec, State
from streamer.source.catalog import Catalog
from streamer.source.checking import ValueCheck, WrongNullError, WrongValueError

BODIES = 64  # that are being read at once
BODY_TIMEOUT = 10.0  # seconds for a body to come in
LONGEST_KEY = 255  # characters
LONGEST_SENTENCE = 300  # characters of what the database says, which repeats the client's value


class Exports:
    def __init__(self, queue: ExportQueue, catalog: Catalog, values: ValueCheck, *, ttl: float) -> None:
        self._queue = queue
        self._ttl = timedelta(seconds=ttl)
        self._catalog = catalog
        self._values = values
        self._bodies = 0

    async def create(self, request: web.Request) -> web.Response:
        export_id, state = await self._submit(request)
        body = {"exportId": str(export_id), "status": state, "links": links(export_id)}
        return json_response(body, status=202, headers={"Location": links(export_id)["self"]})

    async def create_job(self, request: web.Request) -> web.Response:
        export_id, state = await self._submit(request)
        body = {"jobId": str(export_id), "exportId": str(export_id), "status": state}
        return json_response(body, status=202, headers={"Location": links(export_id)["self"]})

    async def status(self, request: web.Request) -> web.Response:
        export_id = requested_id(request)
        export = await self._queue.get(export_id)
        return json_response(representation(export, self._queue.live(export_id), ttl=self._ttl))

    async def list(self, request: web.Request) -> web.Response:
        """`GET /exports`: newest first; `nextCursor` is null on the last page."""
        exports, more = await self._queue.page(*read_page(request))
        found = [representation(export, self._queue.live(export.id), ttl=self._ttl) for export in exports]
        return json_response({"exports": found, "nextCursor": cursor(exports[-1]) if more else None})

    async def delete(self, request: web.Request) -> web.Response:
        await self._queue.remove(requested_id(request))
        return web.Response(status=204)

    async def cancel_job(self, request: web.Request) -> web.Response:
        export = await self._queue.cancel(requested_id(request))
        return json_response({"jobId": str(export.id), "exportId": str(export.id), "status": export.state})

    async def read_spec(self, request: web.Request, *, besides: str | None = None) -> ExportSpec:
        """The export that the request asks for, where `besides` is a parameter that somebody else reads.

        Raises BadParameter, BadTarget, BadBody, what `_read_body` does, and Unavailable if a value cannot be checked.
        """
        query = [(name, text) for name, text in read_query(request) if name != besides]
        parameters = Parameters(query, await self._read_body(request))
        await self._catalog.refresh(parameters.dataset(self._catalog).name)
        dataset = parameters.dataset(self._catalog)
        spec = parameters.spec(dataset)
        try:
            await self._values.check(dataset, spec.conditions, spec.dialect.null)
        except WrongValueError as wrong:
            raise BadParameter(parameter_of(wrong.condition), shown(str(wrong), LONGEST_SENTENCE)) from wrong
        except WrongNullError as wrong:
            raise BadParameter("null", shown(str(wrong), LONGEST_SENTENCE)) from wrong
        return spec

    async def _read_body(self, request: web.Request) -> bytes:
        """Raises Unavailable if too many are being read, and SlowBody."""
        if not request.can_read_body:
            return b""
        if self._bodies >= BODIES:
            raise Unavailable("too many request bodies at once")
        self._bodies += 1
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                return await request.read()
        except TimeoutError as error:
            raise SlowBody(f"the request body did not come in within {BODY_TIMEOUT:g} s") from error
        finally:
            self._bodies -= 1

    async def _submit(self, request: web.Request) -> tuple[UUID, str]:
        """The new export, or the one that was begun with the same Idempotency-Key."""
        submitted = await self._queue.submit(await self.read_spec(request), key=_idempotency_key(request))
        return submitted.id, submitted.state if isinstance(submitted, Export) else State.PENDING


def _idempotency_key(request: web.Request) -> str | None:
    """draft-ietf-httpapi-idempotency-key-header; what it means to the client is the client's business."""
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        return None
    if len(keys) > 1 or not 0 < len(keys[0]) <= LONGEST_KEY or not keys[0].isascii() or not keys[0].isprintable():
        raise BadParameter("Idempotency-Key", f"must be one text of 1 to {LONGEST_KEY} printable ASCII characters")
    return keys[0]


def requested_id(request: web.Request) -> UUID:
    """The export named in the path. A malformed id names nothing: NotFound, as for an unknown one."""
    text = request.match_info["id"]
    try:
        export_id = UUID(text)
    except ValueError:
        export_id = None
    if export_id is None or str(export_id) != text.lower():
        raise NotFound(f"there is no export {text!r}")
    return export_id


def json_response(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body),
        status=status,
        headers={"Cache-Control": "no-store", **(headers or {})},
        content_type="application/json",
        charset="utf-8",
    )
