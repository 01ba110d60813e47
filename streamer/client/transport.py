"""Sends requests to one server over aiohttp, and translates its errors.

Redirections are followed here, not by aiohttp: see redirection.py. The API key is sent only to the origin of the
server.

An error response becomes one of three errors: `Transient`, which is retried; ExportGone or ExportFailed for 404, 409
and 410; Refused for a request that no retry can help. Its sentence is the server's own if the response is a problem of
RFC 9457.
"""

import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from streamer.client.errors import ExportFailed, ExportGone, ReadTimeout, Refused, StreamerError, Transient, Unreachable
from streamer.client.proxies import proxy_for
from streamer.client.redirection import REDIRECTIONS, origin, redirect_target, shown_url
from streamer.client.responses import retry_after
from streamer.errors import shown

READ_BUFFER = 512 * 1024  # bytes of a body that aiohttp buffers; for a moment twice as many
PIECE_BUFFER = 64 * 1024  # bytes: the same, for each of several bodies at once
MAX_JSON = 16 * 1024 * 1024  # bytes: a streamer sends less
MAX_PROBLEM = 64 * 1024  # bytes of an error response that are read for its sentence
CONNECT_TIMEOUT = 10.0  # seconds
MAX_REDIRECTIONS = 10  # of one request
NO_TLS = {
    "WRONG_VERSION_NUMBER",
    "RECORD_LAYER_FAILURE",
    "HTTP_REQUEST",
}  # reasons of OpenSSL for an answer without TLS
RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504, 507})
ENDED = {404: ExportGone, 409: ExportFailed, 410: ExportGone}


class Transport:
    """The connections of one client. A connection that brings no byte for `read_timeout` seconds is closed."""

    def __init__(self, server: str, api_key: str | None, *, read_timeout: float) -> None:
        self.server = server
        self._origin = origin(_url(server))
        self._authorization: dict[str, str] = {}
        if api_key and "@" in urlsplit(server).netloc:
            raise Refused("give either an API key or a password in the URL, not both")
        if api_key and not api_key.isprintable():
            raise Refused("the API key has characters that are not printable, such as a line break")
        if api_key:
            self._authorization["Authorization"] = f"Bearer {api_key}"
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=read_timeout)
        self._session: aiohttp.ClientSession | None = None
        self._answered = False  # any server

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
        """Returns the body of a successful response. `path` is a path or a URL. Raises as `request` does."""
        url = path if "://" in path else self.server + path
        async with self.request(method, url, headers=headers, params=query, json=body) as response:
            await raise_for_status(response)
            content = await _read(response, MAX_JSON)
        if len(content) > MAX_JSON:
            raise Refused(
                f"the server at {shown(url)} is not a streamer server: its answer has more than {MAX_JSON} bytes"
            )
        return content

    @asynccontextmanager
    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, **rest: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yields the response after its head. Raises Transient and Refused before that."""
        response = await self._follow(method, _url(url), headers or {}, rest)
        try:
            yield response
        finally:
            response.close()

    async def _follow(
        self, method: str, url: URL, headers: Mapping[str, str], rest: Mapping[str, Any]
    ) -> aiohttp.ClientResponse:
        """Returns the first response that is no redirection."""
        for _ in range(MAX_REDIRECTIONS):
            response = await self._send(method, url, headers, rest)
            if response.status not in REDIRECTIONS:
                return response
            response.release()
            url = redirect_target(method, url, response.status, response.headers.get("Location"))
            rest = {name: value for name, value in rest.items() if name != "params"}  # the new URL has its own
        raise Refused(f"{shown_url(url)} redirects more than {MAX_REDIRECTIONS} times")

    async def _send(
        self, method: str, url: URL, headers: Mapping[str, str], rest: Mapping[str, Any]
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("use the client as a context: async with Client(url) as client")
        if origin(url) == self._origin:
            headers = {**headers, **self._authorization}
        proxy = proxy_for(str(url))  # over TLS it sees only its own user and password
        with translating_errors(str(url), may_need_tls=url.scheme == "http" and not self._answered):
            response = await self._session.request(
                method, url, headers=headers, proxy=proxy, allow_redirects=False, **rest
            )
        self._answered = True
        return response


def _url(text: str) -> URL:
    """Raises Refused."""
    try:
        return URL(text)
    except ValueError as error:
        raise Refused(f"{shown(text)} cannot be requested: {error}") from error


@contextmanager
def translating_errors(url: str, *, may_need_tls: bool = False) -> Iterator[None]:
    """Raises Transient, ReadTimeout or Refused for an error of aiohttp.

    `may_need_tls` adds a hint if the server closes the connection: servers that expect TLS do that without a word.
    """
    try:
        yield
    except aiohttp.InvalidURL as error:
        raise Refused(f"{shown(url)} cannot be requested: {error}") from error
    except aiohttp.ClientSSLError as error:
        raise Refused(_tls_failure(error, url)) from error
    except aiohttp.ServerTimeoutError as error:
        raise ReadTimeout(f"{_host(url)} sent no data within the timeout") from error
    except aiohttp.ClientPayloadError as error:
        raise Transient(f"the connection to {_host(url)} broke") from error
    except aiohttp.ServerDisconnectedError as error:
        hint = _tls_hint(url) if may_need_tls else ""
        raise Transient(f"{_host(url)} closed the connection without an answer{hint}") from error
    except aiohttp.ClientHttpProxyError as error:
        failure = Transient if error.status in RETRYABLE else Refused
        raise failure(f"the proxy refuses a connection to {_host(url)}: {_phrase(error.status)}") from error
    except aiohttp.ClientConnectorError as error:
        raise _unreachable(error, url) from error
    except (aiohttp.ClientError, OSError) as error:
        raise Transient(f"the connection to {_host(url)} failed: {error}") from error


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _unreachable(error: aiohttp.ClientConnectorError, url: str) -> Transient:
    """The connection to the server failed, or the one to the proxy."""
    reason = _reason(error.os_error)
    if isinstance(error, aiohttp.ClientProxyConnectionError) or error.host != URL(url).raw_host:
        return Transient(f"the proxy {error.host}:{error.port} cannot be reached: {reason}")
    has_address = not isinstance(error.os_error, socket.gaierror)
    return Unreachable(f"{_host(url)} cannot be reached: {reason}", has_address=has_address)


def _tls_failure(error: aiohttp.ClientSSLError, url: str) -> str:
    failure = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(failure, ssl.SSLCertVerificationError):
        trust = "SSL_CERT_FILE names a file with the authorities to trust"
        return f"the certificate of {_host(url)} is not valid: {failure.verify_message}; {trust}"
    if isinstance(failure, ssl.SSLError) and failure.reason in NO_TLS:
        return f"{_host(url)} does not speak TLS; try http://{_host(url)}"
    return f"no TLS connection to {_host(url)} is possible: {failure}"


def _tls_hint(url: str) -> str:
    return f"; if it expects TLS, use https://{_host(url)}"


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Returns the body, but of a body beyond `limit` bytes only the beginning, which is longer than `limit`."""
    body = bytearray()
    with translating_errors(str(response.url)):
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > limit:
                break
    return bytes(body)


def _reason(error: OSError) -> str:
    """The text of asyncio repeats the address. A failed name lookup has a number that `os.strerror` does not know."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)


async def raise_for_status(response: aiohttp.ClientResponse) -> None:
    """Raises Transient, ExportFailed, ExportGone or Refused for a response that is not successful."""
    if response.status < 300:
        return
    url = str(response.url)
    body = await _read(response, MAX_PROBLEM)
    sentence = _detail(response.content_type, body)
    if response.status in RETRYABLE:
        after = retry_after(response.headers, datetime.now(UTC))
        raise Transient(sentence or f"{response.url.host} answers {_phrase(response.status)}", after)
    raise _refusal(response.status, sentence, url)


def _refusal(status: int, sentence: str | None, url: str) -> StreamerError:
    if sentence is None:
        hint = _tls_hint(url) if status == HTTPStatus.BAD_REQUEST and urlsplit(url).scheme == "http" else ""
        return Refused(f"the server at {shown(url)} is not a streamer server: {_phrase(status)}{hint}")
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return Refused(f"{sentence}; is the API key right?")
    return ENDED.get(status, Refused)(sentence)


def _detail(content_type: str, body: bytes) -> str | None:
    """Returns the detail of a problem (RFC 9457, 3.1.4); None for any other response."""
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
