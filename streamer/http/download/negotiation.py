"""Reads download requests, and selects the representation for the response.

An export has two representations: its bytes (identity), and their gzip, which is compressed again for every download
and so has no length, no ranges, and an entity tag of its own. A request with a Range always gets identity.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from aiohttp import HttpVersion11, web

from streamer.coding import Coding
from streamer.errors import BadParameter, NotAcceptable, PreconditionFailed, Unavailable
from streamer.http.api.status import entity_tag
from streamer.http.links import LINKS, download_path
from streamer.http.target import read_query, values_of
from streamer.protocol.conditions import Validators, Verdict, evaluate, http_date, range_applies
from streamer.protocol.disposition import ContentDescription, attachment, safe_filename
from streamer.protocol.encoding import acceptable
from streamer.protocol.ranges import Positions, Slices, Unsatisfiable, Whole, select, select_live

FIELDS = (
    "accept-encoding",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "range",
)
REPRESENTATION = {
    "Vary": "Accept-Encoding",
    "Cache-Control": "private, no-transform",
    "X-Accel-Buffering": "no",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadRequest:
    """The parts of a download request that decide its response."""

    request: web.Request
    fields: Mapping[str, str]  # header fields, by their names in lower case
    filename: str | None
    received_at: datetime
    is_new: bool  # whether this request creates the export
    allows_chunked: bool  # without chunks the end of the connection ends the body, which cannot show a failure

    @classmethod
    def from_request(cls, request: web.Request) -> "DownloadRequest":
        """Reads the request for an export that exists. Raises BadParameter and BadTarget."""
        return cls._of(request, _fields(request), is_new=False)

    @classmethod
    def for_new_export(cls, request: web.Request) -> "DownloadRequest":
        """Reads a request that creates its export, to which no validator and no range can refer.

        The whole body would corrupt the file of `wget -c`, which appends it to bytes of another export. So a range
        that begins after the first byte is refused. Raises BadParameter and BadTarget.
        """
        fields = _fields(request)
        resumed = select_live(fields.get("range"), conditional=False)
        if isinstance(resumed, Positions) and resumed.first > 0:
            raise BadParameter("Range", "a new export begins at its first byte; resume one at its Content-Location")
        kept = {name: value for name, value in fields.items() if name == "accept-encoding"}
        return cls._of(request, kept, is_new=True)

    @classmethod
    def _of(cls, request: web.Request, fields: Mapping[str, str], *, is_new: bool) -> "DownloadRequest":
        return cls(
            request=request,
            fields=fields,
            filename=_filename(request),
            received_at=datetime.now(UTC),
            is_new=is_new,
            allows_chunked=request.version >= HttpVersion11,
        )

    @property
    def is_head(self) -> bool:
        return self.request.method == "HEAD"

    def select(self, length: int, validators: Validators) -> Whole | Slices | Unsatisfiable:
        """Returns what Range and If-Range select of a completed export of `length` bytes."""
        return select(self._range_for(validators), length)

    def select_live(self, validators: Validators) -> Whole | Positions:
        """Returns what Range and If-Range select of a live export."""
        return select_live(self._range_for(validators), conditional="if-range" in self.fields)

    def _range_for(self, validators: Validators) -> str | None:
        applies = range_applies(self.fields.get("if-range"), validators, self.received_at)
        return self.fields.get("range") if applies else None

    def is_modified(self, validators: Validators) -> bool:
        """Returns False if the response is 304. Raises PreconditionFailed."""
        verdict = evaluate(self.fields, validators, self.received_at)
        if verdict is Verdict.FAILED:
            raise PreconditionFailed("the export does not match If-Match or If-Unmodified-Since")
        return verdict is not Verdict.NOT_MODIFIED

    def new_export_headers(self, export_id: UUID) -> dict[str, str]:
        """Returns the header fields that identify the export if this request creates it, otherwise none."""
        if not self.is_new:
            return {}
        links, path = self.request.app[LINKS], download_path(export_id)
        location = links.reference(path, request_path=self.request.path)
        return {"X-Export-Id": str(export_id), "Content-Location": location}

    def coding(self, *, gzip_available: bool) -> Coding:
        """Returns the coding of the response.

        Raises NotAcceptable, and Unavailable if only gzip is acceptable and not available.
        """
        if "range" in self.fields:
            return Coding.IDENTITY
        codings = acceptable(self.fields.get("accept-encoding"))
        accepted = [coding for coding in codings if coding is Coding.IDENTITY or self.allows_chunked]
        if not accepted:
            raise NotAcceptable("Accept-Encoding allows neither gzip nor identity, and there is nothing else")
        available = [coding for coding in accepted if coding is Coding.IDENTITY or gzip_available]
        if not available:
            raise Unavailable("too many compressed downloads at once")
        return available[0]


def _fields(request: web.Request) -> dict[str, str]:
    """Returns the fields that decide a download. A field on several lines is one list (RFC 9110, 5.3)."""
    return {name: ", ".join(lines) for name in FIELDS if (lines := request.headers.getall(name, None))}


def _filename(request: web.Request) -> str | None:
    values = values_of(read_query(request), "filename")
    if not values:
        return None
    safe = safe_filename(values[0])
    if len(values) > 1 or not safe:
        raise BadParameter("filename", "must be given once, and have a character that a file name may have")
    return safe


def validators(export_id: UUID, coding: Coding, last_modified: datetime | None = None) -> Validators:
    """Returns the validators of a representation. Identity and gzip have different tags (RFC 9110, 8.8.3.3)."""
    tag = entity_tag(export_id)
    return Validators(f'{tag[:-1]}-gzip"' if coding is Coding.GZIP else tag, last_modified)


def content_headers(*, header: bool | None) -> dict[str, str]:
    """Returns the header fields that do not depend on an export. RFC 4180, 3: the parameter `header` is optional."""
    parameter = "" if header is None else f"; header={'present' if header else 'absent'}"
    return {"Content-Type": f"text/csv; charset=utf-8{parameter}", **REPRESENTATION}


def representation_headers(
    download: DownloadRequest, export_id: UUID, content: ContentDescription, coding: Coding, validators: Validators
) -> dict[str, str]:
    headers = {
        **content_headers(header=content.header),
        "Content-Disposition": attachment(download.filename or content.filename),
        "ETag": validators.etag,
        **download.new_export_headers(export_id),
    }
    if validators.last_modified is not None:
        headers["Last-Modified"] = http_date(validators.last_modified)
    if coding is Coding.GZIP:
        headers["Content-Encoding"] = coding
    else:
        headers["Accept-Ranges"] = "bytes"
    return headers


def not_modified_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Returns the header fields of a 304: those of a 200 that a cache needs (RFC 9110, 15.4.5)."""
    return {name: headers[name] for name in ("Cache-Control", "ETag", "Vary")}
