"""Errors as problems: which status, code and header fields a response has."""

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import pytest
from aiohttp import HttpVersion, HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.test_utils import make_mocked_request

from streamer.errors import BadParameter, ClientError, NotFound, RangeNotSatisfiable, Unavailable
from streamer.http.aiohttp_internals import TOO_MANY_FIELDS
from streamer.http.links import LINKS, Links
from streamer.http.problems import early_response, malformed, problems


def request(fields: Mapping[str, str] | None = None, version: HttpVersion = HttpVersion11) -> web.Request:
    app = web.Application()
    app[LINKS] = Links("https://example.com")
    found = make_mocked_request("GET", "/exports?limit=1", fields or {}, app=app, version=version)
    found.writer.output_size = 0
    return found


async def answered(error: Exception, to: web.Request | None = None) -> web.Response:
    async def fail(_: web.Request) -> web.StreamResponse:
        raise error

    response = await problems(to or request(), fail)
    assert isinstance(response, web.Response)
    return response


def members(response: web.Response) -> dict[str, Any]:
    assert isinstance(response.body, bytes)
    found: dict[str, Any] = json.loads(response.body)
    return found


async def test_client_error_is_a_problem_with_its_code_and_parameter() -> None:
    response = await answered(BadParameter("limit", "must be a number"))
    assert (response.status, response.content_type) == (400, "application/problem+json")
    assert response.headers["Cache-Control"] == "no-store"
    assert members(response) == {
        "type": "urn:streamer:problem:bad-parameter",
        "title": BadParameter.title,
        "status": 400,
        "detail": "limit: must be a number",
        "error": "limit: must be a number",
        "instance": "https://example.com/exports",
        "parameter": "limit",
    }


@pytest.mark.parametrize(
    ("error", "field", "value"),
    [
        (Unavailable("busy"), "Retry-After", str(Unavailable.retry_after)),
        (Unavailable("busy", headers={"X-Export-Id": "1"}), "X-Export-Id", "1"),
        (RangeNotSatisfiable(7), "Content-Range", "bytes */7"),
    ],
    ids=["retry", "headers", "range"],
)
async def test_client_error_has_its_header_fields(error: ClientError, field: str, value: str) -> None:
    response = await answered(error)
    assert (response.status, response.headers[field]) == (error.status, value)


async def test_unexpected_error_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    response = await answered(ValueError("a secret"))
    assert response.status == 500
    assert "secret" not in json.dumps(members(response))
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "a secret" in str(record.exc_info[1])


async def test_cause_of_a_server_error_is_logged_and_that_of_a_client_error_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for error, logged in ((Unavailable("busy"), True), (NotFound("none"), False)):
        caplog.clear()
        error.__cause__ = OSError("the cause")
        await answered(error)
        assert ("the cause" in caplog.text) is logged


async def test_error_after_the_first_byte_is_raised() -> None:
    begun = request()
    begun.writer.output_size = 1
    with pytest.raises(NotFound):
        await answered(NotFound("none"), begun)


@pytest.mark.parametrize(
    ("fields", "version", "chunked"),
    [
        ({"Range": "bytes=1-"}, HttpVersion11, True),
        ({"Range": "bytes=1-"}, HttpVersion10, False),
        ({}, HttpVersion11, False),
    ],
)
async def test_error_for_a_range_has_no_length(fields: dict[str, str], version: HttpVersion, chunked: bool) -> None:
    assert (await answered(NotFound("none"), request(fields, version))).chunked is chunked


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (web.HTTPNotFound(), 404, "there is nothing at /exports"),
        (web.HTTPMethodNotAllowed("GET", ["POST"]), 405, "GET is not allowed here"),
        (web.HTTPExpectationFailed(), 417, "there is no expectation ''; Expect may be 100-continue"),
    ],
    ids=["404", "405", "417"],
)
async def test_refusal_of_aiohttp_is_a_problem(error: web.HTTPException, status: int, sentence: str) -> None:
    response = await answered(error)
    assert (response.status, members(response)["detail"]) == (status, sentence)
    assert response.headers.get("Allow") == ("POST" if status == 405 else None)


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (LineTooLong("GET", 100), 414, "the URL has more than 100 bytes"),
        (LineTooLong("X", 50), 431, "a header field has more than 50 bytes"),
        (BadHttpMessage(TOO_MANY_FIELDS), 431, "the request has more than 9 header fields"),
        (BadHttpMessage("anything else"), 400, "the request is not well-formed HTTP"),
    ],
    ids=["target", "field", "fields", "other"],
)
def test_malformed_request_gets_a_problem_and_connection_close(
    caplog: pytest.LogCaptureFixture, error: Exception, status: int, sentence: str
) -> None:
    with caplog.at_level(logging.INFO):
        response = malformed(request(), error, max_target=100, max_fields=9)
    assert response.status == status
    assert members(response)["detail"].startswith(sentence)
    assert response.headers["Connection"] == "close"
    assert [record.levelno for record in caplog.records] == [logging.INFO]


def test_early_response_is_a_whole_response() -> None:
    response = early_response(HTTPStatus.SERVICE_UNAVAILABLE, "busy", code="unavailable", retry_after=5)
    head, _, body = response.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("ascii").split("\r\n")
    fields = dict(line.split(": ") for line in lines)
    assert status_line == "HTTP/1.1 503 Service Unavailable"
    assert fields == {
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        "Connection": "close",
        "Retry-After": "5",
    }
    assert json.loads(body)["type"] == "urn:streamer:problem:unavailable"
