"""The HTTP requests of one export: status, download, cancel, delete."""

from collections.abc import Mapping
from contextlib import AsyncExitStack

import aiohttp

from streamer.client.address import Address
from streamer.client.errors import VerificationFailed
from streamer.client.progress import ProgressListener
from streamer.client.responses import Body, read_response, unsatisfied_length
from streamer.client.retries import RetryPolicy
from streamer.client.status import ExportStatus, read_json
from streamer.client.transport import PIECE_BUFFER, READ_BUFFER, Transport, raise_for_status
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
        self, stack: AsyncExitStack, *, etag: str, offset: int, conditional: bool, stop: int | None = None
    ) -> tuple[aiohttp.ClientResponse, Body] | None:
        """Requests the bytes from `offset` to `stop` or to the end; returns None if there are none.

        RFC 9110, 13.1.5: `conditional` sends If-Range. It must be False while the export grows: the server answers such
        a range with 200 (a browser could not read it), and the ETag of the response is compared in any case. Raises as
        `raise_for_status` does, and VerificationFailed.
        """
        response = await stack.enter_async_context(
            self._transport.request(
                "GET",
                self.address.download,
                headers=_range_headers(offset, stop, etag if conditional else None),
                read_bufsize=READ_BUFFER if stop is None else PIECE_BUFFER,
            )
        )
        if response.status == 416 and (length := unsatisfied_length(response.headers)) is not None:
            if length != offset:
                raise VerificationFailed(f"received {offset} bytes, but the export has {length}")
            return None
        await raise_for_status(response)
        wanted = None if stop is None else Slice(offset, stop)
        return response, read_response(response.status, response.headers, etag=etag, wanted=wanted, offset=offset)


def _range_headers(offset: int, stop: int | None, if_range: str | None) -> Mapping[str, str]:
    if not offset and stop is None:
        return {}
    headers = {"Range": f"bytes={offset}-{'' if stop is None else stop - 1}"}
    return headers if if_range is None else headers | {"If-Range": if_range}
