"""Download requests: which header fields count, and the coding and the header fields of the response."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from aiohttp import HttpVersion, HttpVersion11, web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from streamer.coding import Coding
from streamer.errors import BadParameter, ExportGone, NotAcceptable, PreconditionFailed
from streamer.http.download.negotiation import (
    DownloadRequest,
    ensure_same_bytes,
    not_modified_headers,
    representation_headers,
    validators,
)
from streamer.http.links import LINKS, Links
from streamer.model import Representation
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


MADE = Representation(export_id=ID, coding=Coding.GZIP, generation=1, state="completed", coder="isal 1.8.0, level 1")
MADE_TAG = f'"{ID}-gzip-isal-1.8.0-level-1-1"'
DOWNLOAD = DownloadRequest.from_request(get())
IDENTITY_ONLY = (Coding.IDENTITY,)


def codings(accepted: str | None, *at_hand: Coding, **fields: str) -> tuple[Coding, ...]:
    if accepted is not None:
        fields["Accept-Encoding"] = accepted
    download = DownloadRequest.from_request(get({name.replace("_", "-"): value for name, value in fields.items()}))
    return download.codings_of(ID, lambda coding: coding in at_hand)


def test_codings_are_those_of_accept_encoding_in_its_order() -> None:
    assert codings(None) == (Coding.IDENTITY, Coding.GZIP, Coding.ZSTD)
    assert codings("gzip") == (Coding.GZIP, Coding.IDENTITY)
    assert codings("gzip;q=0.5, zstd") == (Coding.ZSTD, Coding.GZIP, Coding.IDENTITY)
    assert codings("zstd, identity;q=0") == (Coding.ZSTD,)


def test_of_codings_that_the_client_likes_equally_the_one_at_hand_is_chosen_and_gzip_otherwise() -> None:
    assert codings("zstd, gzip") == (Coding.GZIP, Coding.ZSTD, Coding.IDENTITY)
    assert codings("zstd, gzip", Coding.ZSTD) == (Coding.ZSTD, Coding.GZIP, Coding.IDENTITY)
    assert codings("gzip, zstd;q=0.9", Coding.ZSTD) == (Coding.GZIP, Coding.ZSTD, Coding.IDENTITY)


def test_request_that_accepts_nothing_is_refused() -> None:
    with pytest.raises(NotAcceptable):
        codings("identity;q=0")


@pytest.mark.parametrize(
    ("accepted", "fields", "expected"),
    [
        ("gzip", {}, IDENTITY_ONLY),  # a client that decodes counts decoded bytes
        ("gzip", {"If_Range": TAG}, IDENTITY_ONLY),
        ("gzip", {"If_Range": MADE_TAG}, (Coding.GZIP, Coding.IDENTITY)),
        ("gzip", {"If_Range": MADE_TAG.replace('-1"', '-2"')}, (Coding.GZIP, Coding.IDENTITY)),
        ("gzip", {"If_Range": f"W/{MADE_TAG}"}, IDENTITY_ONLY),
        ("gzip", {"If_Range": MADE_TAG.replace("gzip", "zstd")}, IDENTITY_ONLY),  # which this client cannot decode
        (None, {"If_Range": MADE_TAG}, (Coding.GZIP, Coding.IDENTITY)),
        ("identity", {"If_Range": MADE_TAG}, IDENTITY_ONLY),
        ("identity;q=0", {}, IDENTITY_ONLY),
    ],
)
def test_range_selects_from_identity_unless_if_range_names_another_representation(
    accepted: str | None, fields: dict[str, str], expected: tuple[Coding, ...]
) -> None:
    assert codings(accepted, Range="bytes=1-2", **fields) == expected


def test_field_on_several_lines_is_one_list() -> None:
    download = DownloadRequest.from_request(get([("If-None-Match", '"a"'), ("If-None-Match", TAG)]))
    assert download.fields == {"if-none-match": f'"a", {TAG}'}
    assert not download.is_modified(validators(DOWNLOAD, ID))


def test_preconditions_are_those_of_the_representation() -> None:
    fresh = DownloadRequest.from_request(get({"If-None-Match": TAG}))
    assert not fresh.is_modified(validators(DOWNLOAD, ID))
    assert fresh.is_modified(validators(DOWNLOAD, ID, MADE))
    with pytest.raises(PreconditionFailed):
        DownloadRequest.from_request(get({"If-Match": '"other"'})).is_modified(validators(DOWNLOAD, ID))


@pytest.mark.parametrize(("tag", "applies"), [(TAG, True), ('"other"', False)])
def test_range_applies_only_with_the_tag_of_if_range(tag: str, applies: bool) -> None:
    download = DownloadRequest.from_request(get({"Range": "bytes=2-3", "If-Range": tag}))
    tags = validators(DOWNLOAD, ID)
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
    identity = representation_headers(download, ID, CONTENT, Coding.IDENTITY, validators(download, ID, None, modified))
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
    coded = representation_headers(download, ID, CONTENT, Coding.GZIP, validators(download, ID, MADE, modified))
    assert (coded["ETag"], coded["Content-Encoding"], coded["Accept-Ranges"]) == (MADE_TAG, "gzip", "bytes")
    assert "Last-Modified" not in coded  # RFC 9110, 8.8.1: two codings of one resource share this date
    assert not_modified_headers(coded) == {name: coded[name] for name in ("Cache-Control", "ETag", "Vary")}


@pytest.mark.parametrize(
    ("coding", "media_type", "suffix"),
    [(Coding.GZIP, "application/gzip", "gz"), (Coding.ZSTD, "application/zstd", "zst")],
)
def test_compressed_file_is_a_resource_without_a_content_coding(coding: Coding, media_type: str, suffix: str) -> None:
    modified = datetime(2026, 11, 22, 6, 0, 0, tzinfo=UTC)
    download = DownloadRequest.from_request(get(), coding)
    tags = validators(download, ID, MADE, modified)
    headers = representation_headers(download, ID, CONTENT, coding, tags)
    assert headers["Content-Type"] == media_type
    assert f'filename="users.csv.{suffix}"' in headers["Content-Disposition"]
    assert headers["Last-Modified"] == "Sun, 22 Nov 2026 06:00:00 GMT"
    assert headers.keys() & {"Content-Encoding", "Vary"} == set()


def test_compressed_file_with_other_bytes_than_before_is_gone() -> None:
    again = replace(MADE, generation=2)
    ensure_same_bytes(DownloadRequest.from_request(get(), Coding.GZIP), MADE)
    ensure_same_bytes(DOWNLOAD, again)  # it has another entity tag
    with pytest.raises(ExportGone):
        ensure_same_bytes(DownloadRequest.from_request(get(), Coding.GZIP), again)
