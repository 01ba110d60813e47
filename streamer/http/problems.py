"""The error table → application/problem+json (RFC 9457). The only place where a failure becomes an answer.

`error` repeats `detail` for older clients. What nobody foresaw answers with a general sentence; its text goes to the
log.
"""

import logging
from http import HTTPStatus
from typing import cast

import msgspec
from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.typedefs import Handler

from streamer.errors import ClientError, RangeNotSatisfiable, shown
from streamer.http.links import LINKS
from streamer.protocol.ranges import unsatisfied_range

log = logging.getLogger(__name__)

TYPE = "urn:streamer:problem:"
CONTENT_TYPE = "application/problem+json"
INSTEAD = "the parameters of an export may be sent as a JSON body, by POST /exports/csv"
TOO_MANY_FIELDS = "Too many headers received"  # aiohttp's words for it


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Exception as error:
        if request.writer.output_size:
            raise  # the answer is under way: nothing but a broken connection may follow
        if isinstance(error, ClientError):
            return _of_ours(request, error)
        if isinstance(error, web.HTTPException):
            return refused_by_aiohttp(request, error)
        log.exception("%s %s failed", request.method, request.path)
        return _problem(
            request, code="internal", title="Internal error", status=500, sentence="the server's log has the reason"
        )


def malformed(
    request: web.BaseRequest, error: HttpProcessingError, *, target_limit: int, most_fields: int
) -> web.Response:
    """What aiohttp could not read as a request. The connection is closed after it."""
    status, sentence = HTTPStatus.BAD_REQUEST, "the request is not well-formed HTTP"
    if isinstance(error, LineTooLong):
        if error.args[1] == target_limit:
            status, sentence = HTTPStatus.REQUEST_URI_TOO_LONG, f"the URL has more than {target_limit} bytes; {INSTEAD}"
        else:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            sentence = f"a header field has more than {error.args[1]} bytes"
    elif error.message == TOO_MANY_FIELDS:
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        sentence = f"the request has more than {most_fields} header fields"
    log.info("%s sent what is no request: %s", request.remote, sentence)
    path = request.rel_url.raw_path  # it has come to no application
    response = _problem(
        request, code=_code(status), title=status.phrase, status=status, sentence=sentence, instance=path
    )
    response.force_close()
    response.headers["Connection"] = "close"  # said also where the request seems to be of HTTP/1.0
    return response


def _of_ours(request: web.Request, error: ClientError) -> web.Response:
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
    """What aiohttp itself refuses: no such route, a wrong method, an expectation."""
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


def before_a_request(
    status: HTTPStatus, sentence: str, *, code: str | None = None, retry_after: int | None = None
) -> bytes:
    """The whole answer on a connection that no request is read from. It is closed after it."""
    problem = msgspec.json.encode(_members(code or _code(status), status.phrase, status, sentence))
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


def _members(code: str, title: str, status: int, sentence: str) -> dict[str, str | int]:
    return {"type": TYPE + code, "title": title, "status": status, "detail": sentence, "error": sentence}


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
    """`instance` is RFC 9457, 3.1.5; it is the URL of the request unless it is given."""
    if instance is None:
        instance = cast("web.Request", request).app[LINKS].to(request.rel_url.raw_path)
    members = _members(code, title, status, sentence) | {"instance": instance}
    if parameter is not None:
        members["parameter"] = parameter
    response = web.Response(status=status, body=msgspec.json.encode(members), content_type=CONTENT_TYPE)
    response.headers["Cache-Control"] = "no-store"
    if "Range" in request.headers and request.version >= HttpVersion11:
        # curl -C - takes an error of exactly as many bytes as it has already for the end of its download.
        response.enable_chunked_encoding()
    return response
