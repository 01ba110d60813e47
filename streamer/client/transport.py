"""Requests to one server, and what its refusals mean. The only file of the client that speaks to aiohttp.

A redirection is followed here, and not by aiohttp: see redirection.py. The API key goes to the origin it was given for,
and to no other.

A refusal is one of three: `Transient`, to be tried again; what became of the export (404, 409, 410); or the request
itself is at fault, and no repetition helps. The sentence is the server's own where it is a problem of RFC 9457.
"""

import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from streamer.client.answers import retry_after
from streamer.client.errors import ExportFailed, ExportGone, Refused, Silence, StreamerError, Transient
from streamer.client.proxies import proxy_for
from streamer.client.redirection import REDIRECTIONS, origin, redirected, told
from streamer.errors import shown

READ_BUFFER = 512 * 1024  # bytes of a body that may wait in memory; twice as many for a moment
PIECE_BUFFER = 64 * 1024  # the same, of one of several bodies at once
MAX_JSON = 16 * 1024 * 1024  # bytes: more is not from a streamer
MAX_REFUSAL = 64 * 1024  # bytes of one that are read for its sentence
CONNECT_TIMEOUT = 10.0  # seconds
MAX_REDIRECTIONS = 10  # of one request
TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 507})
ENDED = {404: ExportGone, 409: ExportFailed, 410: ExportGone}


class Transport:
    """The connections of one client. `silence` is in seconds: what comes later than that does not come."""

    def __init__(self, server: str, api_key: str | None, *, silence: float) -> None:
        self.server = server
        self._origin = origin(_url(server))
        self._authorization: dict[str, str] = {}
        if api_key and "@" in urlsplit(server).netloc:
            raise Refused("either an API key or a password in the URL, not both")
        if api_key:
            self._authorization["Authorization"] = f"Bearer {api_key}"
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=silence)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers={"Accept-Encoding": "identity"},
            timeout=self._timeout,
            read_bufsize=READ_BUFFER,
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """The body of an answer that says yes. `path` begins with a slash, or is a URL."""
        url = path if "://" in path else self.server + path
        async with self.request(method, url, headers=headers, params=query, json=body) as response:
            await raise_refusal(response)
            answer = await _read(response, MAX_JSON)
        if len(answer) > MAX_JSON:
            raise Refused(f"what answers at {shown(url)} is not a streamer: there is no end to it")
        return answer

    @asynccontextmanager
    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, **rest: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Raises Transient and Refused until the head of the answer is there."""
        response = await self._answer(method, _url(url), headers or {}, rest)
        try:
            yield response
        finally:
            response.close()

    async def _answer(
        self, method: str, url: URL, headers: Mapping[str, str], rest: Mapping[str, Any]
    ) -> aiohttp.ClientResponse:
        """The first answer that is no redirection."""
        for _ in range(MAX_REDIRECTIONS):
            response = await self._ask(method, url, headers, rest)
            if response.status not in REDIRECTIONS:
                return response
            response.release()
            url = redirected(method, url, response.status, response.headers.get("Location"))
            rest = {name: value for name, value in rest.items() if name != "params"}  # the new address has its own
        raise Refused(f"{told(url)} redirects again and again")

    async def _ask(
        self, method: str, url: URL, headers: Mapping[str, str], rest: Mapping[str, Any]
    ) -> aiohttp.ClientResponse:
        assert self._session is not None, "use the client as a context: async with Client(url) as client"
        if origin(url) == self._origin:
            headers = {**headers, **self._authorization}
        proxy = proxy_for(str(url))  # gets its own user and password; over TLS it sees no header of the request
        with translated(str(url)):
            return await self._session.request(method, url, headers=headers, proxy=proxy, allow_redirects=False, **rest)


def _url(text: str) -> URL:
    """Raises Refused."""
    try:
        return URL(text)
    except ValueError as error:
        raise Refused(f"{shown(text)} cannot be asked: {error}") from error


@contextmanager
def translated(url: str) -> Iterator[None]:
    """What aiohttp raises, as errors of the client."""
    try:
        yield
    except (aiohttp.InvalidURL, aiohttp.ClientSSLError) as error:
        raise Refused(f"{shown(url)} cannot be asked: {error}") from error
    except aiohttp.ServerTimeoutError as error:
        raise Silence(f"nothing comes from {_host(url)}") from error
    except aiohttp.ClientPayloadError as error:
        raise Transient(f"the connection to {_host(url)} broke") from error
    except aiohttp.ServerDisconnectedError as error:
        raise Transient(f"{_host(url)} closed the connection without an answer") from error
    except aiohttp.ClientHttpProxyError as error:
        failure = Transient if error.status in TRY_AGAIN else Refused
        raise failure(f"the proxy gives no connection to {_host(url)}: {_phrase(error.status)}") from error
    except aiohttp.ClientConnectorError as error:
        raise Transient(f"{_connected(error, url)} cannot be reached: {_reason(error.os_error)}") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Transient(f"the connection to {_host(url)} failed: {error}") from error


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _connected(error: aiohttp.ClientConnectorError, url: str) -> str:
    """The server, or the proxy before it."""
    proxied = isinstance(error, aiohttp.ClientProxyConnectionError) or error.host != URL(url).raw_host
    return f"the proxy {error.host}:{error.port}" if proxied else _host(url)


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body; of one that is longer, a bit more than so many bytes."""
    body = bytearray()
    with translated(str(response.url)):
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > most:
                break
    return bytes(body)


def _reason(error: OSError) -> str:
    """asyncio's own text repeats the address, and a failed look-up of a name has a number of its own."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)


async def raise_refusal(response: aiohttp.ClientResponse) -> None:
    """Returns if the answer is what was asked for. Raises Transient, ExportFailed, ExportGone or Refused."""
    if response.status < 300:
        return
    url = str(response.url)
    body = await _read(response, MAX_REFUSAL)
    sentence = _detail(response.content_type, body)
    if response.status in TRY_AGAIN:
        after = retry_after(response.headers, datetime.now(UTC))
        raise Transient(sentence or f"{response.url.host} answers {_phrase(response.status)}", after)
    raise _refusal(response.status, sentence, url)


def _refusal(status: int, sentence: str | None, url: str) -> StreamerError:
    if sentence is None:
        return Refused(f"what answers at {shown(url)} is not a streamer: {_phrase(status)}")
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return Refused(f"{sentence}; is the API key right?")
    return ENDED.get(status, Refused)(sentence)


def _detail(content_type: str, body: bytes) -> str | None:
    """The sentence of a problem (RFC 9457, 3.1.4); None if it is none."""
    if content_type != "application/problem+json":
        return None
    try:
        found = json.loads(body)
    except ValueError:
        return None
    detail = found.get("detail") if isinstance(found, dict) else None
    return detail if isinstance(detail, str) and detail else None


def _phrase(status: int) -> str:
    known = status in {known.value for known in HTTPStatus}
    return f"{status} {HTTPStatus(status).phrase}" if known else str(status)
