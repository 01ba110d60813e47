"""Responses to errors: application/problem+json (RFC 9457). Errors become responses in this module only.

`error` repeats `detail` for older clients. The response to an unexpected error has a general sentence; the log has the
exception.
"""

import logging
from http import HTTPStatus
from typing import cast

from aiohttp import HttpVersion11, web
from aiohttp.typedefs import Handler
from msgspec import UNSET

from streamer.errors import ClientError, RangeNotSatisfiable, shown
from streamer.http.aiohttp_internals import exceeded_limit, has_too_many_fields, response_begun
from streamer.http.links import LINKS
from streamer.protocol.ranges import unsatisfied_range
from streamer.schema import Problem, Unset, encode

log = logging.getLogger(__name__)

TYPE = "urn:streamer:problem:"
CONTENT_TYPE = "application/problem+json"
POST_INSTEAD = "the parameters of an export may be sent as a JSON body, by POST /exports/csv"


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Exception as error:
        if response_begun(request):
            raise  # nothing but a broken connection may follow
        if isinstance(error, ClientError):
            return _client_error(request, error)
        if isinstance(error, web.HTTPException):
            return refused_by_aiohttp(request, error)
        log.exception("%s %s failed", request.method, request.path)
        return _problem(
            request, code="internal", title="Internal error", status=500, sentence="the server's log has the reason"
        )


def malformed(request: web.BaseRequest, error: Exception, *, max_target: int, max_fields: int) -> web.Response:
    """Returns the response to bytes that aiohttp could not read as a request, after which the connection is closed.

    `max_target` is in bytes.
    """
    status, sentence = _fault_of_head(error, max_target=max_target, max_fields=max_fields)
    log.info("%s sent a malformed request: %s", request.remote, sentence)
    path = request.rel_url.raw_path  # such a request has no application, and so no links
    response = _problem(
        request, code=_code(status), title=status.phrase, status=status, sentence=sentence, instance=path
    )
    response.force_close()
    response.headers["Connection"] = "close"  # aiohttp adds none if it takes the request for one of HTTP/1.0
    return response


def _fault_of_head(error: Exception, *, max_target: int, max_fields: int) -> tuple[HTTPStatus, str]:
    limit = exceeded_limit(error)
    if limit == max_target:
        return HTTPStatus.REQUEST_URI_TOO_LONG, f"the URL has more than {limit} bytes; {POST_INSTEAD}"
    if limit is not None:
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a header field has more than {limit} bytes"
    if has_too_many_fields(error):
        sentence = f"the request has more than {max_fields} header fields"
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, sentence
    return HTTPStatus.BAD_REQUEST, "the request is not well-formed HTTP"


def _client_error(request: web.Request, error: ClientError) -> web.Response:
    response = _problem(
        request,
        code=error.code,
        title=error.title,
        status=error.status,
        sentence=error.sentence,
        parameter=error.parameter,
    )
    if error.__cause__ is not None and error.status >= 500:
        log.warning("%s %s: %s: %r", request.method, request.path, error, error.__cause__)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    response.headers.update(error.headers)
    if isinstance(error, RangeNotSatisfiable):
        response.headers["Content-Range"] = unsatisfied_range(error.length)
    return response


def refused_by_aiohttp(request: web.BaseRequest, error: web.HTTPException) -> web.Response:
    """Returns the response to a request that aiohttp refuses: no such route, a wrong method, an unknown expectation."""
    sentences = {
        404: f"there is nothing at {request.path}",
        405: f"{request.method} is not allowed here",
        417: f"there is no expectation '{shown(request.headers.get('Expect', ''))}'; Expect may be 100-continue",
    }
    status = HTTPStatus(error.status)
    response = _problem(
        request,
        code=_code(status),
        title=status.phrase,
        status=status,
        sentence=sentences.get(status, status.phrase),
    )
    if allow := error.headers.get("Allow"):
        response.headers["Allow"] = allow
    return response


def early_response(
    status: HTTPStatus, sentence: str, *, code: str | None = None, retry_after: int | None = None
) -> bytes:
    """Returns the bytes of a response on a connection that is closed before a request is read.

    `retry_after` is in seconds.
    """
    problem = _encode(code or _code(status), status.phrase, status, sentence)
    head = [
        f"HTTP/1.1 {status} {status.phrase}",
        f"Content-Type: {CONTENT_TYPE}",
        f"Content-Length: {len(problem)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if retry_after is not None:
        head.append(f"Retry-After: {retry_after}")
    return "\r\n".join([*head, "", ""]).encode() + problem


def _code(status: HTTPStatus) -> str:
    return status.phrase.lower().replace(" ", "-")


def _encode(
    code: str,
    title: str,
    status: int,
    sentence: str,
    *,
    instance: str | Unset = UNSET,
    parameter: str | Unset = UNSET,
) -> bytes:
    problem = Problem(
        type=TYPE + code,
        title=title,
        status=status,
        detail=sentence,
        error=sentence,
        instance=instance,
        parameter=parameter,
    )
    return encode(problem)


def _problem(
    request: web.BaseRequest,
    *,
    code: str,
    title: str,
    status: int,
    sentence: str,
    parameter: str | None = None,
    instance: str | None = None,
) -> web.Response:
    """`instance` is that of RFC 9457, 3.1.5; by default the URL of the request."""
    if instance is None:
        instance = cast("web.Request", request).app[LINKS].to(request.rel_url.raw_path)
    named = UNSET if parameter is None else parameter
    body = _encode(code, title, status, sentence, instance=instance, parameter=named)
    response = web.Response(status=status, body=body, content_type=CONTENT_TYPE)
    response.headers["Cache-Control"] = "no-store"
    if "Range" in request.headers and request.version >= HttpVersion11:
        # If Content-Length is the size of the file that `curl -C -` has, curl reports a complete download.
        response.enable_chunked_encoding()
    return response
