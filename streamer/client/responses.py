"""Checks the head of a response to a download, before any byte of its body is written.

A body is accepted only if it is of the expected representation, known by its strong entity tag (RFC 9110, 8.8.3), and
if it begins at the requested offset or at the first byte of the export. In the latter case the caller skips the bytes
that it has already.
"""

import re
from base64 import b64decode
from binascii import Error as BinasciiError
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from streamer.client.errors import Refused, Replaced, VerificationFailed
from streamer.protocol.conditions import parse_http_date
from streamer.protocol.ranges import OPEN_END, Slice

CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE)
UNSATISFIED = re.compile(r"bytes \*/([0-9]{1,18})", re.IGNORECASE)
SHA_256 = re.compile(r"(?:^|,)[ \t]*sha-256=:([A-Za-z0-9+/]{43}=):[ \t]*(?:,|$)")


@dataclass(frozen=True, slots=True)
class Body:
    """`start` is the position of its first byte in the whole; `sha256` is the Repr-Digest of the whole."""

    start: int
    sha256: str | None
    etag: str


def read_response(
    status: int, fields: Mapping[str, str], *, etag: str | None, wanted: Slice | None, offset: int
) -> Body:
    """Returns the body of a 200 or 206. The request was for the bytes from `offset` on, or for the slice `wanted`.

    An `etag` of None accepts any: there are no bytes yet that the body would continue.

    Raises Replaced for another representation, and Refused or VerificationFailed for a body that cannot be used.
    """
    if fields.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused(f"the download has the Content-Encoding {fields['Content-Encoding']}, which was not requested")
    found = fields.get("ETag")
    if found is None:
        raise Refused("the download has no ETag: this is not a streamer server")
    if etag is None and found.startswith("W/"):  # RFC 9110, 8.8.1: it does not tell the same bytes from others
        raise Refused(f"the download has only a weak ETag, {found}: a proxy may have changed its bytes")
    if etag not in (None, found):
        raise Replaced(f"the export was replaced: its ETag is {found}, and was {etag}")
    return Body(_start(status, fields, wanted, offset), _sha256(fields), found)


def unsatisfied_length(fields: Mapping[str, str]) -> int | None:
    """Returns the length that a 416 names (RFC 9110, 14.4), in bytes."""
    found = UNSATISFIED.fullmatch(fields.get("Content-Range", ""))
    return int(found[1]) if found else None


def retry_after(fields: Mapping[str, str], now: datetime) -> float | None:
    """Returns seconds (RFC 9110, 10.2.3); None if the field is missing or cannot be read."""
    text = fields.get("Retry-After", "")
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    moment = parse_http_date(text, now)
    return None if moment is None else max(0.0, (moment - now).total_seconds())


def _start(status: int, fields: Mapping[str, str], wanted: Slice | None, offset: int) -> int:
    if status == 200 and wanted is None:
        return 0
    if status == 200:
        raise Refused(
            "the response to a range is the whole export: a proxy may drop the Range field; use one connection"
        )
    text = fields.get("Content-Range", "")
    found = CONTENT_RANGE.fullmatch(text)
    if found is None:
        raise Refused(f"the download has no usable Content-Range: {text!r}")
    first, last, length = int(found[1]), int(found[2]), found[3]
    if wanted is not None and (first, last) != (wanted.start, wanted.stop - 1):
        raise VerificationFailed(f"requested bytes {wanted.start}-{wanted.stop - 1}, but the response has {text!r}")
    if first != offset or not (wanted or _is_to_the_end(last, length)):
        raise VerificationFailed(f"requested bytes {offset}-, but the response has {text!r}")
    return first


def _is_to_the_end(last: int, length: str) -> bool:
    """RFC 8673, 3.2: the end of a growing representation is not known. RFC 9110, 14.4: otherwise it is the length."""
    return last == OPEN_END if length == "*" else last + 1 == int(length)


def _sha256(fields: Mapping[str, str]) -> str | None:
    """Returns the SHA-256 of Repr-Digest (RFC 9530, 3), in hexadecimal."""
    found = SHA_256.search(fields.get("Repr-Digest", ""))
    try:
        return b64decode(found[1], validate=True).hex() if found else None
    except BinasciiError:
        return None
