"""The public interface: a client of one server, and its exports."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Self
from uuid import UUID, uuid4

from streamer.client.address import Address, address_of, server_url
from streamer.client.body import request_body
from streamer.client.download import Download, verify
from streamer.client.errors import GaveUp, Transient
from streamer.client.hashing import new_digest
from streamer.client.progress import ProgressListener
from streamer.client.remote import Remote
from streamer.client.retries import RetryPolicy
from streamer.client.saving import Saved, SavePolicy, check_target, save
from streamer.client.status import ExportPage, ExportStatus, read_json
from streamer.client.transport import Transport
from streamer.schema import Created

MAX_PAGE = 100  # exports: the largest page of a server


class Client:
    """`async with Client("http://127.0.0.1:8080") as client: …`.

    `api_key` is sent as a bearer token (RFC 6750). `listener` receives the progress of every download.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        retry_policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - it is frozen
        listener: ProgressListener | None = None,
    ) -> None:
        self.url = server_url(url)
        self._retry_policy = retry_policy
        self._listener = listener or ProgressListener()
        self._transport = Transport(self.url, api_key, read_timeout=retry_policy.read_timeout)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._transport.__aexit__(*exc_info)

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
        """Creates an export, exactly once even if the request is retried.

        `where` has the filters of the API: `{"country_code": ["US", "DE"], "lifetime_value__gte": 100}`. A value is a
        string, a number, a bool, a date, a time (without a zone: UTC), a Decimal, a UUID, an enumeration, or an
        iterable of these. `label` is a text that the server shows and searches. `ttl` is how long the server keeps the
        file: a text such as "2h", seconds, or a timedelta. `parameters` are the other parameters of the API, such as
        `delimiter=";"`. Columns, label and ttl that are None are not sent.

        Raises Refused, with the server's sentence, and GaveUp; TypeError and ValueError for a value that has no text
        form, such as None in `where`.
        """
        body = request_body(dataset, columns, where, parameters, label=label, ttl=ttl)
        key = str(uuid4())  # draft-ietf-httpapi-idempotency-key-header

        async def create() -> Created:
            path = "/exports/csv"
            answer = await self._transport.json("POST", path, body=body, headers={"Idempotency-Key": key})
            return read_json(answer, Created, self.url + path)

        created: Created = await self._retry_policy.retrying(self._listener)(create)
        return self._export(Address(self.url, created.export_id))

    def get(self, target: str | UUID) -> "Export":
        """Returns the export with this id or URL, without a request. Raises Refused for a text that is neither."""
        return self._export(address_of(str(target), self.url))

    async def exports(
        self, *, status: Iterable[str] = (), label: str | None = None, limit: int | None = None
    ) -> AsyncIterator[ExportStatus]:
        """Yields the exports of the server, newest first, at most `limit`.

        `status` has names of states, such as "completed"; `label` is a part of the label, in upper or lower case.
        Raises Refused and GaveUp.
        """
        states = status if isinstance(status, str) else ",".join(status)  # an iterator can be read only once
        left, cursor = limit, None
        while left is None or left > 0:
            size = min(left or MAX_PAGE, MAX_PAGE)
            members = {"limit": str(size), "status": states or None, "label": label, "cursor": cursor}
            page = await self._page({name: value for name, value in members.items() if value is not None})
            for found in page.exports:
                yield found
            left = None if left is None else left - len(page.exports)
            cursor = page.next_cursor
            if cursor is None:
                return

    async def _page(self, query: Mapping[str, str]) -> ExportPage:
        async def get() -> ExportPage:
            answer = await self._transport.json("GET", "/exports", query=query)
            return read_json(answer, ExportPage, f"{self.url}/exports")

        page: ExportPage = await self._retry_policy.retrying(self._listener)(get)
        return page

    def _export(self, address: Address) -> "Export":
        return Export(Remote(self._transport, address, self._retry_policy, self._listener))


class Export:
    """An export on the server."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    @property
    def id(self) -> UUID:
        return self._remote.address.export_id

    @property
    def url(self) -> str:
        """The URL of the download."""
        return self._remote.address.download

    async def status(self, *, retry: bool = True) -> ExportStatus:
        """Raises ExportGone if there is no such export, Refused, and GaveUp: without `retry` at the first failure."""
        if retry:
            return await self._remote.status()
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
        policy: SavePolicy = SavePolicy(),  # noqa: B008 - it is frozen
    ) -> Saved:
        """Downloads to `path`, which is created only when the file is complete and its SHA-256 is the server's.

        Follows an export that grows, reconnects after every break, and resumes the PATH.part of an earlier run. An
        existing file is accepted if it is this export, otherwise it is replaced only with `force`. A completed export
        is fetched in pieces over several `connections`, of sizes by `policy`. Gives up after `max_time` seconds.

        Raises LocalFileError, ExportFailed, ExportGone, GaveUp, VerificationFailed and Refused.
        """
        target = Path(path)
        check_target(target, force=force, new=False)
        async with time_limit(max_time):
            return await save(self._remote, target, connections=connections, force=force, policy=policy)

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yields the bytes as they come, over as many connections as that takes.

        The iteration ends normally only after the last byte, and if the bytes are verified. Otherwise it raises what
        `save` does, except LocalFileError.
        """
        status = await self._remote.downloadable_status()
        download = Download(self._remote, status.etag)
        digest, length = new_digest(), 0
        async with aclosing(download.chunks()) as chunks:
            async for chunk in chunks:
                digest.update(chunk)
                length += len(chunk)
                yield chunk
        assert download.final
        verify(download.final, length=length, sha256=digest.hexdigest(), announced=download.announced_sha256)

    async def cancel(self) -> ExportStatus:
        """Cancels the export unless it is finished. Returns its status. Raises ExportGone, Refused and GaveUp."""
        await self._remote.cancel()
        return await self._remote.status()

    async def delete(self) -> None:
        """Cancels the export unless it is finished, and removes its file. Raises ExportGone, Refused and GaveUp."""
        await self._remote.delete()


@asynccontextmanager
async def time_limit(seconds: float | None) -> AsyncIterator[None]:
    """Raises GaveUp after `seconds`; None is no limit."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise GaveUp(f"not done within {seconds:g} s") from error


def check_new_target(path: Path, *, force: bool) -> None:
    """Raises LocalFileError if a new export cannot be saved there. To be called before the export is created."""
    check_target(path, force=force, new=True)
