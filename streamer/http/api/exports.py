"""Exports as resources: create, status, list, cancel, delete.

There are two sets of URLs, `/exports` with a `jobId` and `/exports/csv` with links, which create the same exports.
"""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import timedelta
from uuid import UUID

from aiohttp import web

from streamer.errors import BadParameter, NotFound, shown
from streamer.http.api.listing import cursor, read_page
from streamer.http.api.parameters import Parameters
from streamer.http.api.request_bodies import RequestBodies
from streamer.http.api.status import export_status, parameter_of
from streamer.http.links import LINKS, status_path
from streamer.http.target import read_query
from streamer.jobs.admission import Admission
from streamer.model import OPEN, Export, ExportFilter, ExportRequest, ExportSpec, State
from streamer.schema import CancelledJob, Created, CreatedJob, ExportPage, ExportStatus, encode
from streamer.source.catalog.catalog import Catalog
from streamer.source.catalog.checking import ValueCheck, WrongNullError, WrongValueError
from streamer.source.dataset import Dataset

LARGE = 16 * 1024  # bytes of a request's query and body; larger requests are parsed one at a time
MAX_KEY = 255  # characters
MAX_SENTENCE = 300  # characters of an error message of the database, which repeats the client's value


class Exports:
    def __init__(
        self, admission: Admission, catalog: Catalog, values: ValueCheck, bodies: RequestBodies, *, ttl: float
    ) -> None:
        """`ttl`: seconds that the file of a completed export is kept, at most."""
        self._admission = admission
        self._ttl = timedelta(seconds=ttl)
        self._catalog = catalog
        self._values = values
        self._bodies = bodies
        self._parsing_large = asyncio.Lock()  # parsing and checking take several times the size of a request

    async def create(self, request: web.Request) -> web.Response:
        """`POST /exports/csv`."""
        export_id, state = await self._submit(request)
        links = request.app[LINKS].of(export_id)
        return _accepted(request, export_id, Created(export_id=export_id, status=state, links=links))

    async def create_job(self, request: web.Request) -> web.Response:
        """`POST /exports`."""
        export_id, state = await self._submit(request)
        return _accepted(request, export_id, CreatedJob(export_id=export_id, job_id=export_id, status=state))

    async def status(self, request: web.Request) -> web.Response:
        """`GET /exports/{id}` and `GET /exports/{id}/status`."""
        export_id = requested_id(request)
        export = await self._admission.get(export_id, OPEN)
        return json_response(self._status(request, export))

    async def list(self, request: web.Request) -> web.Response:
        """`GET /exports`: newest first; `nextCursor` is null on the last page."""
        exports, more = await self._admission.page(OPEN, *read_page(request))
        found = tuple(self._status(request, export) for export in exports)
        return json_response(ExportPage(exports=found, next_cursor=cursor(exports[-1]) if more else None))

    async def newest(self, request: web.Request, count: int) -> Sequence[ExportStatus]:
        """Returns the newest exports, at most `count`. Raises Unavailable."""
        exports, _ = await self._admission.page(OPEN, ExportFilter(), None, count)
        return [self._status(request, export) for export in exports]

    def _status(self, request: web.Request, export: Export) -> ExportStatus:
        return export_status(export, self._admission.active(export.id, OPEN), ttl=self._ttl, links=request.app[LINKS])

    async def delete(self, request: web.Request) -> web.Response:
        """`DELETE /exports/{id}`."""
        await self._admission.remove(requested_id(request), OPEN)
        return web.Response(status=204)

    async def cancel_job(self, request: web.Request) -> web.Response:
        """`POST /exports/{id}/cancel`."""
        export = await self._admission.cancel(requested_id(request), OPEN)
        return json_response(CancelledJob(job_id=export.id, export_id=export.id, status=export.state))

    async def read_request(self, request: web.Request, *, ignored: str | None = None) -> ExportRequest:
        """Reads and checks the query and the body. `ignored` is a query parameter that belongs to another reader.

        Raises BadParameter, BadTarget, BadBody, TooMuch, BodyTooLarge and SlowBody, and Unavailable if there are too
        many bodies or the source cannot check a value.
        """
        async with self._bodies.read(request) as body:
            large = len(request.raw_path) + len(body) > LARGE
            async with self._parsing_large if large else nullcontext():
                return await self._parse(request, body, ignored)

    async def _parse(self, request: web.Request, body: bytearray, ignored: str | None) -> ExportRequest:
        query = [(name, text) for name, text in read_query(request) if name != ignored]
        parameters = Parameters(query, body)
        await self._catalog.refresh(parameters.dataset(self._catalog).name)
        dataset = parameters.dataset(self._catalog)
        export_request = parameters.request(dataset, max_ttl=self._ttl)
        await self._check_values(dataset, export_request.spec)
        return export_request

    async def _check_values(self, dataset: Dataset, spec: ExportSpec) -> None:
        """Raises BadParameter, and Unavailable if the source cannot check them."""
        try:
            await self._values.check(dataset, spec.conditions, spec.dialect.null)
        except WrongValueError as error:
            raise BadParameter(parameter_of(error.condition), shown(str(error), MAX_SENTENCE)) from error
        except WrongNullError as error:
            raise BadParameter("null", shown(str(error), MAX_SENTENCE)) from error

    async def _submit(self, request: web.Request) -> tuple[UUID, str]:
        """Returns id and state of the new export, or of the one that was created with the same Idempotency-Key."""
        submitted = await self._admission.submit(await self.read_request(request), OPEN, key=_idempotency_key(request))
        return submitted.id, submitted.state if isinstance(submitted, Export) else State.PENDING


def _accepted(request: web.Request, export_id: UUID, body: Created | CreatedJob) -> web.Response:
    location = request.app[LINKS].reference(status_path(export_id), request_path=request.path)
    return json_response(body, status=202, headers={"Location": location, "X-Export-Id": str(export_id)})


def _idempotency_key(request: web.Request) -> str | None:
    """Returns the key, which may be any text (draft-ietf-httpapi-idempotency-key-header). Raises BadParameter."""
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        return None
    if len(keys) > 1 or not 0 < len(keys[0]) <= MAX_KEY or not keys[0].isascii() or not keys[0].isprintable():
        raise BadParameter("Idempotency-Key", f"must be one text of 1 to {MAX_KEY} printable ASCII characters")
    return keys[0]


def requested_id(request: web.Request) -> UUID:
    """Returns the id in the path. Raises NotFound if it is malformed, as for an unknown one."""
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
