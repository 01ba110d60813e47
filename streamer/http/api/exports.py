"""Create, status, cancel: the exports as resources, in both dialects that clients speak."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta
from uuid import UUID

from aiohttp import web

from streamer.errors import BadParameter, BodyTooLarge, NotFound, SlowBody, Unavailable, shown
from streamer.http.api.listing import cursor, read_page
from streamer.http.api.parameters import Parameters
from streamer.http.api.status import export_status, parameter_of
from streamer.http.links import LINKS, status_path
from streamer.http.target import read_query
from streamer.jobs.admission import Admission
from streamer.model import Export, ExportRequest, State
from streamer.schema import CancelledJob, Created, CreatedJob, ExportPage, ExportStatus, encode
from streamer.source.catalog.catalog import Catalog
from streamer.source.catalog.checking import ValueCheck, WrongNullError, WrongValueError

MAX_BODY = 384 * 1024  # bytes: 1,599 long names in JSON's escapes, and 1000 UUIDs
MAX_BODIES = 64  # that are being read at once
BODIES_LIMIT = 768 * 1024  # bytes of all of them
LARGE = 16 * 1024  # bytes of a request's query and body; of the larger ones one at a time is understood
BODY_TIMEOUT = 10.0  # seconds for a body to come in
MAX_KEY = 255  # characters
TOO_LARGE = f"the request body has more than {MAX_BODY} bytes"
MAX_SENTENCE = 300  # characters of what the database says, which repeats the client's value


class Exports:
    def __init__(self, admission: Admission, catalog: Catalog, values: ValueCheck, *, ttl: float) -> None:
        self._admission = admission
        self._ttl = timedelta(seconds=ttl)
        self._catalog = catalog
        self._values = values
        self._bodies = 0  # that are being read
        self._bodies_size = 0  # bytes of them that have come in
        self._understanding = asyncio.Lock()  # a large request takes several times its size until it is checked

    async def create(self, request: web.Request) -> web.Response:
        export_id, state = await self._submit(request)
        links = request.app[LINKS].of(export_id)
        return _accepted(request, export_id, Created(export_id=export_id, state=state, links=links))

    async def create_job(self, request: web.Request) -> web.Response:
        export_id, state = await self._submit(request)
        return _accepted(request, export_id, CreatedJob(export_id=export_id, job_id=export_id, state=state))

    async def status(self, request: web.Request) -> web.Response:
        export_id = requested_id(request)
        export = await self._admission.get(export_id)
        return json_response(self._status(request, export))

    async def list(self, request: web.Request) -> web.Response:
        """`GET /exports`: newest first; `nextCursor` is null on the last page."""
        exports, more = await self._admission.page(*read_page(request))
        found = tuple(self._status(request, export) for export in exports)
        return json_response(ExportPage(exports=found, next_cursor=cursor(exports[-1]) if more else None))

    def _status(self, request: web.Request, export: Export) -> ExportStatus:
        return export_status(export, self._admission.active(export.id), ttl=self._ttl, links=request.app[LINKS])

    async def delete(self, request: web.Request) -> web.Response:
        await self._admission.remove(requested_id(request))
        return web.Response(status=204)

    async def cancel_job(self, request: web.Request) -> web.Response:
        export = await self._admission.cancel(requested_id(request))
        return json_response(CancelledJob(job_id=export.id, export_id=export.id, state=export.state))

    async def read_request(self, request: web.Request, *, besides: str | None = None) -> ExportRequest:
        """The export that the request asks for, where `besides` is a parameter that somebody else reads.

        Raises BadParameter, BadTarget, BadBody, TooMuch, what `_read_body` does, and Unavailable if a value cannot be
        checked.
        """
        async with self._body(request) as body:
            large = len(request.raw_path) + len(body) > LARGE
            async with self._understanding if large else nullcontext():
                return await self._understood(request, body, besides)

    async def _understood(self, request: web.Request, body: bytearray, besides: str | None) -> ExportRequest:
        query = [(name, text) for name, text in read_query(request) if name != besides]
        parameters = Parameters(query, body)
        await self._catalog.refresh(parameters.dataset(self._catalog).name)
        dataset = parameters.dataset(self._catalog)
        asked = parameters.request(dataset, longest=self._ttl)
        try:
            await self._values.check(dataset, asked.spec.conditions, asked.spec.dialect.null)
        except WrongValueError as wrong:
            raise BadParameter(parameter_of(wrong.condition), shown(str(wrong), MAX_SENTENCE)) from wrong
        except WrongNullError as wrong:
            raise BadParameter("null", shown(str(wrong), MAX_SENTENCE)) from wrong
        return asked

    @asynccontextmanager
    async def _body(self, request: web.Request) -> AsyncIterator[bytearray]:
        """Raises Unavailable if too many are being read, BodyTooLarge and SlowBody."""
        body = bytearray()
        if not request.can_read_body:
            yield body
            return
        if self._bodies >= MAX_BODIES:
            raise Unavailable(f"too many request bodies at once: {MAX_BODIES} are being read")
        self._bodies += 1
        try:
            await self._read(request, body)
            yield body
        finally:
            self._bodies -= 1
            self._bodies_size -= len(body)

    async def _read(self, request: web.Request, body: bytearray) -> None:
        if (request.content_length or 0) > MAX_BODY:
            raise BodyTooLarge(TOO_LARGE)
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                async for piece in request.content.iter_any():
                    body += piece
                    self._bodies_size += len(piece)
                    if len(body) > MAX_BODY:
                        raise BodyTooLarge(TOO_LARGE)
                    if self._bodies_size > BODIES_LIMIT:
                        raise Unavailable(f"the request bodies that are being read have more than {BODIES_LIMIT} bytes")
        except TimeoutError as error:
            raise SlowBody(f"the request body did not come in within {BODY_TIMEOUT:g} s") from error

    async def _submit(self, request: web.Request) -> tuple[UUID, str]:
        """The new export, or the one that was begun with the same Idempotency-Key."""
        submitted = await self._admission.submit(await self.read_request(request), key=_idempotency_key(request))
        return submitted.id, submitted.state if isinstance(submitted, Export) else State.PENDING


def _accepted(request: web.Request, export_id: UUID, body: Created | CreatedJob) -> web.Response:
    location = request.app[LINKS].reference(status_path(export_id), request_path=request.path)
    return json_response(body, status=202, headers={"Location": location})


def _idempotency_key(request: web.Request) -> str | None:
    """draft-ietf-httpapi-idempotency-key-header; what it means to the client is the client's business."""
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        return None
    if len(keys) > 1 or not 0 < len(keys[0]) <= MAX_KEY or not keys[0].isascii() or not keys[0].isprintable():
        raise BadParameter("Idempotency-Key", f"must be one text of 1 to {MAX_KEY} printable ASCII characters")
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


def json_response(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=encode(body),
        status=status,
        headers={"Cache-Control": "no-store", **(headers or {})},
        content_type="application/json",
        charset="utf-8",
    )
