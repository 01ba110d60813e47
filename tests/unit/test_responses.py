"""The checks of the head of a response to a download."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from streamer.client.errors import Refused, Replaced, StreamerError, VerificationFailed
from streamer.client.responses import Body, read_response, retry_after, unsatisfied_length
from streamer.protocol.digest import repr_digest
from streamer.protocol.ranges import Positions, Slice, content_range, live_content_range

TAG = '"tag"'
DIGEST = hashlib.sha256(b"all of it")
NOW = datetime(2026, 11, 22, 6, 0, 0, tzinfo=UTC)


def judge(status: int, fields: Mapping[str, str], *, offset: int = 0, wanted: Slice | None = None) -> Body:
    return read_response(status, {"ETag": TAG, **fields}, etag=TAG, wanted=wanted, offset=offset)


@pytest.mark.parametrize(
    ("status", "fields", "offset", "start"),
    [
        (200, {}, 0, 0),
        (200, {}, 7, 0),
        (206, {"Content-Range": "bytes 7-99/100"}, 7, 7),
        (206, {"Content-Range": "BYTES 7-99/100"}, 7, 7),
        (206, {"Content-Range": live_content_range(Positions(7, None))}, 7, 7),
        (206, {"Content-Range": live_content_range(Positions(0, None))}, 0, 0),
    ],
)
def test_a_body_up_to_the_end_is_accepted(status: int, fields: Mapping[str, str], offset: int, start: int) -> None:
    assert judge(status, fields, offset=offset) == Body(start, None, TAG)


@pytest.mark.parametrize(
    "content_range",
    [
        "bytes 6-99/100",
        "bytes 8-99/100",
        "bytes 0-99/100",
        "bytes 7-98/100",  # not to the end
        "bytes 7-99/*",  # the one that is taken for the whole by curl and wget
        "bytes 7-9007199254740991/100",
        "bytes */100",
        "bytes 7-99/100, bytes 8-99/100",
        "bytes=7-99/100",
        "items 7-99/100",
        "bytes 7-",
        "",
    ],
)
def test_a_range_that_is_not_the_rest_is_refused(content_range: str) -> None:
    with pytest.raises(StreamerError) as caught:
        judge(206, {"Content-Range": content_range}, offset=7)
    assert isinstance(caught.value, Refused | VerificationFailed)


def test_a_piece_must_be_exactly_the_requested_range() -> None:
    wanted = Slice(7, 50)
    assert judge(206, {"Content-Range": content_range(wanted, 100)}, offset=7, wanted=wanted) == Body(7, None, TAG)
    for other in (Slice(7, 49), Slice(7, 51), Slice(6, 50)):
        with pytest.raises(VerificationFailed):
            judge(206, {"Content-Range": content_range(other, 100)}, offset=7, wanted=wanted)
    with pytest.raises(Refused, match="use one connection"):
        judge(200, {}, offset=7, wanted=wanted)


@pytest.mark.parametrize("etag", ['"other"', 'W/"tag"', "tag", '"tag"-gzip'])
@pytest.mark.parametrize("status", [200, 206])
def test_another_etag_raises_replaced(status: int, etag: str) -> None:
    with pytest.raises(Replaced, match="was replaced"):
        judge(status, {"ETag": etag, "Content-Range": "bytes 7-99/100"}, offset=7)


def test_any_strong_etag_is_taken_before_the_first_byte() -> None:
    assert read_response(200, {"ETag": '"new"'}, etag=None, wanted=None, offset=0) == Body(0, None, '"new"')
    with pytest.raises(Refused, match="weak ETag"):
        read_response(200, {"ETag": 'W/"new"'}, etag=None, wanted=None, offset=0)


def test_a_response_without_etag_is_refused() -> None:
    with pytest.raises(Refused, match="not a streamer"):
        read_response(200, {}, etag=TAG, wanted=None, offset=0)


def test_a_content_coding_is_refused() -> None:
    assert judge(200, {"Content-Encoding": "identity"}).start == 0
    with pytest.raises(Refused, match="gzip"):
        judge(200, {"Content-Encoding": "gzip"})


@pytest.mark.parametrize(
    ("field", "found"),
    [
        (repr_digest(DIGEST.digest()), DIGEST.hexdigest()),
        (f"md5=:AAAA:, {repr_digest(DIGEST.digest())}", DIGEST.hexdigest()),
        ("sha-256=:AAAA:", None),
        ("sha-512=:AAAA:", None),
        ("", None),
    ],
)
def test_the_sha256_of_repr_digest_is_read(field: str, found: str | None) -> None:
    assert judge(200, {"Repr-Digest": field}).sha256 == found


@pytest.mark.parametrize(
    ("field", "length"),
    [("bytes */100", 100), ("bytes */0", 0), ("bytes */*", None), ("bytes 0-1/100", None), ("", None)],
)
def test_the_length_of_a_416_is_read(field: str, length: int | None) -> None:
    assert unsatisfied_length({"Content-Range": field}) == length


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("Sun, 22 Nov 2026 06:01:30 GMT", 90.0),
        ("Sun, 22 Nov 2026 05:00:00 GMT", 0.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(field: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": field}, NOW) == seconds
