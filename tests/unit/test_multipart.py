"""multipart/byteranges (RFC 9110, 14.6), read back by Python's email package and compared byte for byte."""

import re
from collections.abc import Sequence
from email import message_from_bytes
from email.message import Message
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamer.http.download.delivery import Part, length_of
from streamer.http.download.multipart import byteranges
from streamer.protocol.ranges import Slice, Slices, select

CSV = "text/csv; charset=utf-8; header=present"
EXPORT = b"".join(b'%d,name %d,"a, b"\n' % (row, row) for row in range(1, 500))


def body_of(parts: Sequence[Part], export: bytes) -> bytes:
    return b"".join(part if isinstance(part, bytes) else export[part.start : part.stop] for part in parts)


def read(content_type: str, body: bytes) -> list[Message]:
    """Parses the parts as a recipient does, with the Content-Type of the response and its body."""
    message = message_from_bytes(b"Content-Type: " + content_type.encode("ascii") + b"\r\n\r\n" + body)
    assert message.get_content_type() == "multipart/byteranges"
    assert not message.defects
    parts = message.get_payload()
    assert isinstance(parts, list)
    found = [part for part in parts if isinstance(part, Message)]
    assert len(found) == len(parts)
    return found


def content_of(part: Message) -> bytes:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content


def boundary_of(content_type: str) -> str:
    # RFC 2046, 5.1.1: no more than 70 characters; these need no quotes
    found = re.fullmatch(r"multipart/byteranges; boundary=([0-9A-Za-z]{16,70})", content_type)
    assert found
    return found[1]


def test_two_slices_are_framed_as_rfc_9110_shows() -> None:
    content_type, parts = byteranges([Slice(500, 1000), Slice(7000, 8000)], 8000, "application/pdf")
    boundary = boundary_of(content_type)
    assert parts == [
        f"--{boundary}\r\nContent-Type: application/pdf\r\nContent-Range: bytes 500-999/8000\r\n\r\n".encode(),
        Slice(500, 1000),
        f"\r\n--{boundary}\r\nContent-Type: application/pdf\r\nContent-Range: bytes 7000-7999/8000\r\n\r\n".encode(),
        Slice(7000, 8000),
        f"\r\n--{boundary}--\r\n".encode(),
    ]


@pytest.mark.parametrize(
    "field",
    [
        "bytes=0-0,-2",  # Go net/http, fs_test.go, ServeFileRangeTests
        "bytes=0-1,5-8",
        "bytes=0-1,5-",
        "bytes=0-9, -10, 10-19",  # nginx-tests, range.t
        "bytes=0-9, -10, 100000-, 10-19",
        "bytes=1000-1100,100-200,2000-",  # httpd, t/apache/byterange5.t
        "bytes=5-10,1-3,99-99",  # httpd, t/apache/byterange6.t
        "bytes=0-1,100-101,200-201,300-301,400-401,500-501,600-601,700-701",  # httpd, t/apache/byterange7.t
    ],
)
def test_every_part_is_its_slice_in_the_requested_order(field: str) -> None:
    selected = select(field, len(EXPORT))
    assert isinstance(selected, Slices)
    content_type, parts = byteranges(selected.slices, len(EXPORT), CSV)
    found = read(content_type, body_of(parts, EXPORT))
    assert [content_of(part) for part in found] == [EXPORT[piece.start : piece.stop] for piece in selected.slices]
    assert [part["Content-Range"] for part in found] == [
        f"bytes {piece.start}-{piece.stop - 1}/{len(EXPORT)}" for piece in selected.slices
    ]
    assert [part["Content-Type"] for part in found] == [CSV] * len(selected.slices)
    assert [part.keys() for part in found] == [["Content-Type", "Content-Range"]] * len(selected.slices)


@pytest.mark.parametrize("length", [10**15, 2**63, 2**80])
def test_length_of_the_body_is_known_without_reading(length: int) -> None:
    slices = [Slice(0, length // 2), Slice(length // 2 + 1, length)]
    _, parts = byteranges(slices, length, CSV)
    heads = [part for part in parts if isinstance(part, bytes)]
    assert length_of(parts) == length - 1 + sum(map(len, heads))


def test_every_response_has_its_own_boundary() -> None:
    slices = [Slice(0, 1), Slice(2, 3)]
    assert len({byteranges(slices, 10, CSV)[0] for _ in range(100)}) == 100


def test_export_that_contains_an_earlier_response_is_read_whole() -> None:
    """A client that can write rows may have seen a boundary, and may write it into them."""
    content_type, parts = byteranges([Slice(0, 10), Slice(20, 30)], len(EXPORT), CSV)
    earlier = boundary_of(content_type).encode()
    hostile = body_of(parts, EXPORT) + b"\r\n--" + earlier + b"\r\n\r\n" + EXPORT + b"\r\n--" + earlier + b"--\r\n"
    middle = len(hostile) // 2
    slices = [Slice(middle, len(hostile)), Slice(0, middle - 1)]
    content_type, parts = byteranges(slices, len(hostile), CSV)
    assert boundary_of(content_type).encode() not in hostile
    found = read(content_type, body_of(parts, hostile))
    assert [content_of(part) for part in found] == [hostile[middle:], hostile[: middle - 1]]


NASTY = st.lists(
    st.sampled_from(
        [b"a", b",", b'"', b"\r", b"\n", b"\r\n", b"\r\n--", b"--", b"--\r\n", b"\0", b"\xff", b"\xc3\xa9", b":", b" "]
    )
).map(b"".join)


@st.composite
def exports_and_slices(draw: st.DrawFn) -> tuple[bytes, list[Slice]]:
    export = draw(st.binary(min_size=4, max_size=80) | NASTY.filter(lambda export: len(export) >= 4))
    edges = sorted(draw(st.sets(st.integers(0, len(export)), min_size=4, max_size=16)))
    return export, draw(st.permutations([Slice(*pair) for pair in pairwise(edges)][::2]))


@settings(deadline=None, max_examples=300)
@given(exports_and_slices())
@example((b"\r\n\r\n", [Slice(0, 1), Slice(2, 4)]))
@example((b"--\r\n--\r\n", [Slice(4, 8), Slice(0, 3)]))
def test_any_bytes_are_read_back_unchanged(asked: tuple[bytes, list[Slice]]) -> None:
    export, slices = asked
    content_type, parts = byteranges(slices, len(export), CSV)
    body = body_of(parts, export)
    assert length_of(parts) == len(body)
    assert [content_of(part) for part in read(content_type, body)] == [export[a:b] for a, b in slices]
