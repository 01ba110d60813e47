"""The HTTP requests of one export: status, download, cancel, delete.

No request accepts a content coding: a proxy that compresses on the way would change the entity tag and the ranges. A
compressed file is a resource with a URL of its own.
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack

import aiohttp
from yarl import URL

from streamer.client.address import Address
from streamer.client.errors import Refused, VerificationFailed
from streamer.client.progress import ProgressListener
from streamer.client.redirection import shown_url
from streamer.client.representation import Representation
from streamer.client.responses import Body, read_response, unsatisfied_length
from streamer.client.retries import RetryPolicy
from streamer.client.status import ExportStatus, read_json
from streamer.client.transport import PIECE_BUFFER, READ_BUFFER, Transport, raise_for_status
from streamer.coding import Coding
from streamer.protocol.ranges import Slice


class Remote:
    """One export on the server."""

    def __init__(
        self, transport: Transport, address: Address, retry_policy: RetryPolicy, listener: ProgressListener
    ) -> None:
        self._transport = transport
        self.address = address
        self.retry_policy = retry_policy
        self.listener = listener

    async def status(self) -> ExportStatus:
        """Retries. Raises GaveUp, ExportGone and Refused."""
        found: ExportStatus = await self.retry_policy.retrying(self.listener)(self.status_once)
        return found

    async def status_once(self) -> ExportStatus:
        """Raises Transient, ExportGone and Refused."""
        url = self.address.status
        status = read_json(await self._transport.json("GET", url), ExportStatus, url)
        self.listener.status(status)
        return status

    async def downloadable_status(self) -> ExportStatus:
        """Returns the status of an export that can be downloaded. Raises ExportFailed, and as `status` does."""
        status = await self.status()
        status.raise_if_ended_badly()
        return status

    async def cancel(self) -> None:
        """Raises ExportGone if there never was such an export."""
        await self._send("POST", f"{self.address.resource}/cancel")

    async def delete(self) -> None:
        """Raises ExportGone if there never was such an export."""
        await self._send("DELETE", self.address.resource)

    async def _send(self, method: str, url: str) -> None:
        async def send_once() -> None:
            await self._transport.json(method, url)

        await self.retry_policy.retrying(self.listener)(send_once)

    async def open(
        self, stack: AsyncExitStack, current: Representation, *, etag: str | None, offset: int, stop: int | None = None
    ) -> tuple[aiohttp.ClientResponse, Body] | None:
        """Requests the bytes from `offset` to `stop` or to the end; returns None if there are none.

        RFC 9110, 13.1.5: If-Range is sent if the representation is completed. While it grows, the server answers such a
        range with 200 (a browser could not read it), and the ETag of the response is compared in any case; None is not
        known yet. Raises as `raise_for_status` does, Refused if the server has no such file, and VerificationFailed.
        """
        response = await stack.enter_async_context(
            self._transport.request(
                "GET",
                self.address.file(current.coding),
                headers=_range_headers(offset, stop, etag if current.completed else None),
                read_bufsize=READ_BUFFER if stop is None else PIECE_BUFFER,
            )
        )
        if response.status == 416 and (length := unsatisfied_length(response.headers)) is not None:
            if length != offset:
                raise VerificationFailed(f"received {offset} bytes, but the export has {length}")
            return None
        if response.status == 404 and current.coding is not Coding.IDENTITY:  # its status was there a moment ago
            raise Refused(self._no_file(current.coding))
        await raise_for_status(response)
        wanted = None if stop is None else Slice(offset, stop)
        return response, read_response(response.status, response.headers, etag=etag, wanted=wanted, offset=offset)

    def _no_file(self, coding: Coding) -> str:
        csv = shown_url(URL(self.address.download))
        return f"the server has no {coding} files: it is older than this client; the CSV itself is at {csv}"


def _range_headers(offset: int, stop: int | None, if_range: str | None) -> Mapping[str, str]:
    if not offset and stop is None:
        return {}
    headers = {"Range": f"bytes={offset}-{'' if stop is None else stop - 1}"}
    return headers if if_range is None else headers | {"If-Range": if_range}
