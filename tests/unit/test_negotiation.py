"""Download requests: which header fields count, and the coding and the header fields of the response."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

import pytest
from aiohttp import HttpVersion, HttpVersion10, HttpVersion11, web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from streamer.coding import Coding
from streamer.errors import BadParameter, NotAcceptable, PreconditionFailed, Unavailable
from streamer.http.download.negotiation import (
    DownloadRequest,
    not_modified_headers,
    representation_headers,
    validators,
)
from streamer.http.links import LINKS, Links
from streamer.protocol.disposition import ContentDescription
from streamer.protocol.ranges import Positions, Slice, Slices, Whole

ID = UUID("0f2ab9b4-0000-4000-8000-000000000000")
TAG = f'"{ID}"'
CONTENT = ContentDescription("users.csv", header=True)


def get(
    fields: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    *,
    target: str = "/exports/csv",
    version: HttpVersion = HttpVersion11,
    method: str = "GET",
) -> web.Request:
    app = web.Application()
    app[LINKS] = Links()
    return make_mocked_request(method, target, CIMultiDict(fields), app=app, version=version)


def coding(accepted: str | None, *, gzip: bool = True, version: HttpVersion = HttpVersion11, **fields: str) -> Coding:
    if accepted is not None:
        fields["Accept-Encoding"] = accepted
    return DownloadRequest.from_request(get(fields, version=version)).coding(gzip_available=gzip)


def test_coding_is_gzip_if_it_is_accepted_available_and_no_range_is_requested() -> None:
    assert coding(None) is Coding.IDENTITY
    assert coding("gzip") is Coding.GZIP
    assert coding("gzip", gzip=False) is Coding.IDENTITY
    assert coding("gzip", Range="bytes=0-1") is Coding.IDENTITY
    assert coding("gzip", version=HttpVersion10) is Coding.IDENTITY


def test_request_that_accepts_only_gzip_is_refused_without_a_stream_or_without_chunks() -> None:
    only = "gzip, identity;q=0"
    assert coding(only) is Coding.GZIP
    with pytest.raises(Unavailable):
        coding(only, gzip=False)
    for impossible, version in ((only, HttpVersion10), ("identity;q=0", HttpVersion11)):
        with pytest.raises(NotAcceptable):
            coding(impossible, version=version)


def test_field_on_several_lines_is_one_list() -> None:
    download = DownloadRequest.from_request(get([("If-None-Match", '"a"'), ("If-None-Match", TAG)]))
    assert download.fields == {"if-none-match": f'"a", {TAG}'}
    assert not download.is_modified(validators(ID, Coding.IDENTITY))


def test_preconditions_are_those_of_the_representation() -> None:
    fresh = DownloadRequest.from_request(get({"If-None-Match": TAG}))
    assert not fresh.is_modified(validators(ID, Coding.IDENTITY))
    assert fresh.is_modified(validators(ID, Coding.GZIP))
    with pytest.raises(PreconditionFailed):
        DownloadRequest.from_request(get({"If-Match": '"other"'})).is_modified(validators(ID, Coding.IDENTITY))


@pytest.mark.parametrize(("tag", "applies"), [(TAG, True), ('"other"', False)])
def test_range_applies_only_with_the_tag_of_if_range(tag: str, applies: bool) -> None:
    download = DownloadRequest.from_request(get({"Range": "bytes=2-3", "If-Range": tag}))
    tags = validators(ID, Coding.IDENTITY)
    assert download.select(10, tags) == (Slices((Slice(2, 4),)) if applies else Whole())
    assert download.select_live(tags) == (Positions(2, 3) if applies else Whole())


def test_new_export_ignores_validators_and_a_range_from_the_first_byte() -> None:
    fields = {"If-Match": '"x"', "Range": "bytes=0-", "If-Range": '"x"', "Accept-Encoding": "gzip"}
    download = DownloadRequest.for_new_export(get(fields))
    assert download.fields == {"accept-encoding": "gzip"}
    assert download.is_new


@pytest.mark.parametrize("field", ["bytes=1-", "bytes=7-8"])
def test_new_export_refuses_a_range_after_the_first_byte(field: str) -> None:
    with pytest.raises(BadParameter) as refused:
        DownloadRequest.for_new_export(get({"Range": field}))
    assert refused.value.parameter == "Range"


def test_filename_is_made_safe() -> None:
    assert DownloadRequest.from_request(get()).filename is None
    assert DownloadRequest.from_request(get(target="/?filename=a%2Fb%00.csv")).filename == "a_b_.csv"


@pytest.mark.parametrize("query", ["filename=", "filename=a&filename=b", "filename=.."])
def test_filename_that_is_empty_or_repeated_is_refused(query: str) -> None:
    with pytest.raises(BadParameter) as refused:
        DownloadRequest.from_request(get(target=f"/?{query}"))
    assert refused.value.parameter == "filename"


def test_only_the_response_that_creates_an_export_has_its_location() -> None:
    assert DownloadRequest.from_request(get()).new_export_headers(ID) == {}
    assert DownloadRequest.for_new_export(get()).new_export_headers(ID) == {
        "X-Export-Id": str(ID),
        "Content-Location": f"{ID}/download",
    }


def test_header_fields_of_identity_and_gzip() -> None:
    modified = datetime(2026, 11, 22, 6, 0, 0, tzinfo=UTC)
    download = DownloadRequest.from_request(get(target="/?filename=mine.csv"))
    identity = representation_headers(download, ID, CONTENT, Coding.IDENTITY, validators(ID, Coding.IDENTITY, modified))
    assert identity == {
        "Content-Type": "text/csv; charset=utf-8; header=present",
        "Vary": "Accept-Encoding",
        "Cache-Control": "private, no-transform",
        "X-Accel-Buffering": "no",
        "Content-Disposition": identity["Content-Disposition"],
        "ETag": TAG,
        "Last-Modified": "Sun, 22 Nov 2026 06:00:00 GMT",
        "Accept-Ranges": "bytes",
    }
    assert 'filename="mine.csv"' in identity["Content-Disposition"]
    gzip = representation_headers(download, ID, CONTENT, Coding.GZIP, validators(ID, Coding.GZIP))
    assert (gzip["ETag"], gzip["Content-Encoding"]) == (f'"{ID}-gzip"', "gzip")
    assert gzip.keys() & {"Accept-Ranges", "Last-Modified"} == set()
    assert not_modified_headers(gzip) == {name: gzip[name] for name in ("Cache-Control", "ETag", "Vary")}
