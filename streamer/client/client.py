"""The public interface: a client of one server, and its exports."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Self
from uuid import UUID, uuid4

from streamer.client.address import Address, address_of, server_url
from streamer.client.body import request_body
from streamer.client.errors import ExportGone, GaveUp, Refused, Transient
from streamer.client.progress import ProgressListener
from streamer.client.remote import Remote
from streamer.client.representation import Transfer
from streamer.client.retries import RetryPolicy
from streamer.client.saving import Saved, SavePolicy, check_target, save
from streamer.client.status import ExportPage, ExportStatus, read_json
from streamer.client.streaming import stream
from streamer.client.transport import Transport
from streamer.schema import Created

MAX_PAGE = 100  # exports: the largest page of a server


class Client:
    """The connections to one server, as an asynchronous context.

    Args:
        url: The address of the server, such as `http://127.0.0.1:8080`; without a scheme it is http.
        api_key: Sent as a bearer token (RFC 6750), to this server only.
        retry_policy: How often a request is retried, and how long the client waits for bytes.
        listener: Receives the progress of every download of this client.

    Raises:
        Refused: `url` is not the address of a server.

    Example:
        import asyncio
        from streamer.client import Client

        async def main():
            async with Client("http://127.0.0.1:8080") as client:
                export = await client.export(dataset="users", columns=["id", "email"], limit=100)
                saved = await export.save("users.csv")
                print(saved.rows, "rows")

        asyncio.run(main())
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
        /,
        *,
        dataset: str | None = None,
        columns: Sequence[str] | str | None = None,
        where: Mapping[str, Any] | None = None,
        label: str | None = None,
        ttl: str | float | timedelta | None = None,
        **parameters: Any,
    ) -> "Export":
        """Creates an export, exactly once even if the request is retried. Does not wait for its end.

        Args:
            dataset: Its name. None: `users`, or the only dataset of the server.
            columns: The names of the columns, in the order of the file. None: all.
            where: The conditions of the API, such as `{"country_code": ["US", "DE"], "lifetime_value__gte": 100}`. A
                value is a string, a number, a bool, a date, a time (without a zone: UTC), a Decimal, a UUID, an
                enumeration, or an iterable of these, any of which may match.
            label: A text that the server shows and searches.
            ttl: How long the server keeps the completed file: a text such as "2h", a number of seconds, or a timedelta.
                None: the default of the server.
            parameters: The other parameters of the API, such as `limit=100`, `order_by="-id"` or `delimiter=";"`.

        Returns:
            The export, to be saved, streamed or asked for its status.

        Raises:
            Refused: The server refuses the request; the sentence has its reason.
            GaveUp: The server did not answer.
            TypeError, ValueError: A value cannot be sent, such as None in `where`.
        """
        body = request_body(dataset, columns, where, parameters, label=label, ttl=ttl)
        key = str(uuid4())  # draft-ietf-httpapi-idempotency-key-header

        async def create() -> Created:
            path = "/exports/csv"
            answer = await self._transport.json("POST", path, body=body, headers={"Idempotency-Key": key})
            return read_json(answer, Created, self.url + path)

        with translating_unknown_paths():
            created: Created = await self._retry_policy.retrying(self._listener)(create)
        return self._export(Address(self.url, created.export_id))

    def get(self, target: str | UUID) -> "Export":
        """Returns an export that exists already, without a request.

        Args:
            target: The id of an export of this server, or any URL of an export.

        Raises:
            Refused: `target` is neither an id nor the URL of an export.
        """
        return self._export(address_of(str(target), self.url))

    async def exports(
        self,
        *,
        status: Iterable[str] = (),
        label: str | None = None,
        dataset: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[ExportStatus]:
        """Yields the exports of the server, newest first.

        Args:
            status: Only exports with one of these statuses, such as "completed". Empty: all.
            label: Only exports with this text in their label, in upper or lower case.
            dataset: Only exports of this dataset.
            limit: At most this number of exports. None: all.

        Raises:
            Refused: The server refuses the request.
            GaveUp: The server did not answer.
        """
        statuses = status if isinstance(status, str) else ",".join(status)  # an iterator can be read only once
        left, cursor = limit, None
        while left is None or left > 0:
            size = min(left or MAX_PAGE, MAX_PAGE)
            members = {
                "limit": str(size),
                "status": statuses or None,
                "label": label,
                "dataset": dataset,
                "cursor": cursor,
            }
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

        with translating_unknown_paths():
            page: ExportPage = await self._retry_policy.retrying(self._listener)(get)
        return page

    def _export(self, address: Address) -> "Export":
        return Export(Remote(self._transport, address, self._retry_policy, self._listener))


class Export:
    """One export on the server: `Client.export` and `Client.get` return it."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    @property
    def id(self) -> UUID:
        """The id of the export."""
        return self._remote.address.export_id

    @property
    def url(self) -> str:
        """The URL of the download."""
        return self._remote.address.download

    async def status(self, *, retry: bool = True) -> ExportStatus:
        """Returns the current status of the export.

        Args:
            retry: False raises GaveUp at the first failure, instead of trying again.

        Raises:
            ExportGone: There is no such export.
            GaveUp: The server did not answer.
            Refused: The server refuses the request.
        """
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
        coding: str | None = None,
        decode: bool = False,
        connections: int = 1,
        force: bool = False,
        max_time: float | None = None,
        policy: SavePolicy = SavePolicy(),  # noqa: B008 - it is frozen
    ) -> Saved:
        """Downloads the export to a file, which exists only when it is complete and its SHA-256 is the server's.

        Follows an export that is still running, reconnects after every break, and resumes the PATH.part of an earlier
        run. An existing file is accepted without a download if it has the content of this export.

        Args:
            path: Where to save the file.
            coding: "gzip" or "zstd" downloads the compressed file of the export, "identity" the CSV. None: what the URL
                of the export names, which is the CSV unless it ends with .csv.gz or .csv.zst.
            decode: Saves the CSV, and compresses only the transfer: without a `coding` as gzip. The compressed bytes
                are in PATH.part until all have come; there must be room for both. To decode zstd before Python 3.14,
                the package backports.zstd must be installed.
            connections: Fetches the pieces of a completed file over this number of connections.
            force: Replaces an existing file, and a PATH.part of another export.
            max_time: Gives up after this number of seconds. None: no limit.
            policy: The sizes of pieces, and how often a file is synced.

        Returns:
            What was saved: path, rows, bytes and SHA-256.

        Raises:
            LocalFileError: The file cannot be written, or another file is there.
            ExportFailed: The export failed on the server.
            ExportGone: The export was cancelled or deleted, has expired, or never existed.
            GaveUp: The server did not answer, or `max_time` is over.
            VerificationFailed: The received bytes do not match the server's length or SHA-256.
            Refused: The server refuses the request, or has no compressed files, or zstd cannot be decoded here.
            ValueError: There is no such `coding`.
        """
        target = Path(path)
        transfer = self._transfer(coding, decode=decode)
        check_target(target, force=force, new=False)
        async with time_limit(max_time):
            return await save(self._remote, target, transfer, connections=connections, force=force, policy=policy)

    async def stream(self, *, coding: str | None = None, decode: bool = False) -> AsyncGenerator[bytes, None]:
        """Yields the bytes of the file as they come. Reconnects after every break.

        The iteration ends without an exception only after the last byte, and only if the SHA-256 is the server's. The
        bytes before an exception must be discarded.

        Args:
            coding: As for `save`.
            decode: Yields the CSV, and compresses only the transfer, as `save` does.

        Raises:
            ExportFailed, ExportGone, GaveUp, VerificationFailed, Refused, ValueError: As `save`.
        """
        async with aclosing(stream(self._remote, self._transfer(coding, decode=decode))) as chunks:
            async for chunk in chunks:
                yield chunk

    def _transfer(self, coding: str | None, *, decode: bool) -> Transfer:
        return Transfer.of(coding, decode=decode, named=self._remote.address.coding)

    async def cancel(self) -> ExportStatus:
        """Cancels the export unless it is finished. Returns its status after that.

        Raises:
            ExportGone: There never was such an export.
            Refused, GaveUp: As `status`.
        """
        await self._remote.cancel()
        return await self._remote.status()

    async def delete(self) -> None:
        """Removes the file of the export from the server. An export that is not finished is cancelled.

        Raises:
            ExportGone: There never was such an export.
            Refused, GaveUp: As `status`.
        """
        await self._remote.delete()


@contextmanager
def translating_unknown_paths() -> Iterator[None]:
    """Raises Refused for a 404 of a path that every server has: the path in the address of the server is wrong."""
    try:
        yield
    except ExportGone as error:
        raise Refused(f"{error}; is the address of the server right?") from error


@asynccontextmanager
async def time_limit(seconds: float | None) -> AsyncIterator[None]:
    """Raises GaveUp after `seconds`, with the failure that the client wanted to retry; None is no limit."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        failure = error.__cause__ and error.__cause__.__cause__
        reason = f": {failure}" if isinstance(failure, Transient) else ""
        raise GaveUp(f"not finished within {seconds:g} s{reason}") from error


def check_new_target(path: Path, *, force: bool) -> None:
    """Raises LocalFileError if a new export cannot be saved there. To be called before the export is created."""
    check_target(path, force=force, new=True)
