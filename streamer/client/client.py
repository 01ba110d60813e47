"""The surface: a client of one server, and the exports that it knows."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Self
from uuid import UUID, uuid4

from streamer.client.address import Address, address_of, server_url
from streamer.client.body import request_body
from streamer.client.download import Download, Remote, new_digest, verify
from streamer.client.errors import GaveUp, Transient
from streamer.client.progress import ProgressListener
from streamer.client.retries import RetryPolicy
from streamer.client.saving import Saved, check_target, save
from streamer.client.status import ExportPage, ExportStatus, read_json
from streamer.client.transport import Transport
from streamer.schema import Created

MAX_PAGE = 100  # exports, which is the most a server gives at once


class Client:
    """`async with Client("http://127.0.0.1:8080") as client: …`. `api_key` is sent as a bearer token (RFC 6750)."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        patience: RetryPolicy = RetryPolicy(),  # noqa: B008 - it is frozen
        watcher: ProgressListener | None = None,
    ) -> None:
        self.url = server_url(url)
        self._patience = patience
        self._watcher = watcher or ProgressListener()
        self._wire = Transport(self.url, api_key, silence=patience.read_timeout)

    async def __aenter__(self) -> Self:
        await self._wire.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._wire.__aexit__(*exc_info)

    async def export(
        self,
        *,
        dataset: str = "users",
        columns: Sequence[str] | str | None = None,
        where: Mapping[str, Any] | None = None,
        label: str | None = None,
        ttl: str | float | timedelta | None = None,
        **parameters: Any,
    ) -> "Export":
        """Starts an export, once, however often the request has to be repeated.

        `where` has conditions as the server knows them: `{"country_code": ["US", "DE"], "lifetime_value__gte": 100}`.
        Their values may be texts, numbers, truths, dates, times (without a zone: UTC), Decimals, UUIDs, enumerations,
        or several of these in any iterable. `label` is shown by the server and can be searched for. `ttl` is how long
        the file stays there: a text such as "2h", seconds, or a timedelta. `parameters` are all others, such as
        `delimiter=";"`; None is not given.

        Raises Refused, with the server's sentence, and GaveUp; TypeError and ValueError for a value that has no text,
        such as None in `where`.
        """
        asked = request_body(dataset, columns, where, parameters, label=label, ttl=ttl)
        key = str(uuid4())  # draft-ietf-httpapi-idempotency-key-header

        async def create() -> Created:
            path = "/exports/csv"
            answer = await self._wire.json("POST", path, body=asked, headers={"Idempotency-Key": key})
            return read_json(answer, Created, self.url + path)

        created: Created = await self._patience.retrying(self._watcher)(create)
        return self._known(Address(self.url, created.export_id))

    def get(self, target: str | UUID) -> "Export":
        """The export with this id, or with this URL, which must be of this server. Asks nobody. Raises Refused."""
        return self._known(address_of(str(target), self.url))

    async def exports(
        self, *, status: Iterable[str] = (), label: str | None = None, limit: int | None = None
    ) -> AsyncIterator[ExportStatus]:
        """The exports of the server, newest first, at most `limit`.

        `status` names states, such as "completed"; `label` is a part of the label, in upper or lower case.
        """
        states = status if isinstance(status, str) else ",".join(status)  # once: an iterator has no second time
        left, cursor = limit, None
        while left is None or left > 0:
            query = {"limit": str(min(left or MAX_PAGE, MAX_PAGE))}
            if states:
                query["status"] = states
            if label is not None:
                query["label"] = label
            if cursor:
                query["cursor"] = cursor
            page = await self._page(query)
            for found in page.exports:
                yield found
            left = None if left is None else left - len(page.exports)
            cursor = page.next_cursor
            if cursor is None:
                return

    async def _page(self, query: Mapping[str, str]) -> ExportPage:
        async def ask() -> ExportPage:
            answer = await self._wire.json("GET", "/exports", query=query)
            return read_json(answer, ExportPage, f"{self.url}/exports")

        page: ExportPage = await self._patience.retrying(self._watcher)(ask)
        return page

    def _known(self, address: Address) -> "Export":
        return Export(Remote(self._wire, address, self._patience, self._watcher))


class Export:
    """An export on the server."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    @property
    def id(self) -> UUID:
        return self._remote.address.export_id

    @property
    def url(self) -> str:
        """Of its download."""
        return self._remote.address.download

    async def status(self) -> ExportStatus:
        """Raises ExportGone if there is no such export, Refused and GaveUp."""
        return await self._remote.status()

    async def glance(self) -> ExportStatus:
        """The status, asked once: for who looks again anyway. Raises GaveUp at the first failure."""
        try:
            return await self._remote.status_once()
        except Transient as failure:
            raise GaveUp(str(failure)) from failure

    async def save(
        self,
        path: str | Path,
        *,
        connections: int = 1,
        force: bool = False,
        max_time: float | None = None,
    ) -> Saved:
        """Downloads to `path`, which appears only when the file is whole and its SHA-256 is the server's.

        Follows an export that grows, goes on after every break, and goes on with what an earlier run left in PATH.part.
        A file that is there already is done if it is this export, and is replaced only with `force`. With `connections`
        a completed export is fetched in pieces, so many at once. After `max_time` seconds it gives up.

        Raises LocalFileError, ExportFailed, ExportGone, GaveUp, VerificationFailed and Refused.
        """
        target = Path(path)
        check_target(target, force=force, new=False)
        async with within(max_time):
            return await save(self._remote, target, connections=connections, force=force)

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The bytes as they come, over as many connections as it takes.

        If the loop ends by itself, they were all, and verified; otherwise it raises what `save` does.
        """
        status = await self._remote.living_status()
        download = Download(self._remote, status.etag)
        digest, length = new_digest(), 0
        async with aclosing(download.chunks()) as chunks:
            async for chunk in chunks:
                digest.update(chunk)
                length += len(chunk)
                yield chunk
        assert download.final
        verify(download.final, length=length, sha256=digest.hexdigest(), named=download.named_sha256)

    async def cancel(self) -> ExportStatus:
        """Cancels it if it is not finished; what is finished stays as it is. The status afterwards."""
        await self._remote.cancel()
        return await self._remote.status()

    async def delete(self) -> None:
        """Cancels it if it is not finished, and removes its file in any case."""
        await self._remote.delete()


@asynccontextmanager
async def within(seconds: float | None) -> AsyncIterator[None]:
    """Raises GaveUp when the time is over."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise GaveUp(f"not done within {seconds:g} s") from error


def check_new_target(path: Path, *, force: bool) -> None:
    """Whether a new export can be saved there, before it is begun. Raises LocalFileError."""
    check_target(path, force=force, new=True)
