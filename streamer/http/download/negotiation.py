"""What a download request asks for, and which representation answers it.

An export has two representations: its bytes (identity), and their gzip, which is made anew for every download and so
has no length, no ranges, and an entity tag of its own. A request with a Range always gets identity.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from aiohttp import HttpVersion11, web

from streamer.errors import BadParameter, NotAcceptable, PreconditionFailed, Unavailable
from streamer.http.api.status import entity_tag
from streamer.http.links import LINKS, download_path
from streamer.http.target import read_query, values_of
from streamer.protocol.conditions import Validators, Verdict, evaluate, http_date, range_applies
from streamer.protocol.disposition import ContentDescription, attachment, safe_filename
from streamer.protocol.encoding import Coding, acceptable
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


@dataclass(frozen=True, slots=True)
class DownloadRequest:
    """What decides a download: header fields, by their names in lower case, and the name to save it under."""

    fields: Mapping[str, str]
    filename: str | None
    at: datetime
    allows_chunked: bool  # without them the end of the connection is the end of the body, which cannot show a failure
    begun_by: web.Request | None  # the request, where it begins the export

    @classmethod
    def from_request(cls, request: web.Request) -> "DownloadRequest":
        """Of an export that is there."""
        return cls._of(request, _fields(request))

    @classmethod
    def for_new_export(cls, request: web.Request) -> "DownloadRequest":
        """Of an export that this request begins: there is nothing yet that a validator or a range could mean.

        To send the whole to `wget -c` would be its undoing: it appends to what it has of another export. So a range
        that begins later than the first byte is refused with BadParameter.
        """
        fields = _fields(request)
        resumed = select_live(fields.get("range"), conditional=False)
        if isinstance(resumed, Positions) and resumed.first > 0:
            raise BadParameter("Range", "a new export begins at its first byte; resume one at its Content-Location")
        kept = {name: value for name, value in fields.items() if name == "accept-encoding"}
        return cls._of(request, kept, begun_by=request)

    @classmethod
    def _of(
        cls, request: web.Request, fields: Mapping[str, str], begun_by: web.Request | None = None
    ) -> "DownloadRequest":
        chunks = request.version >= HttpVersion11
        return cls(fields, _filename(request), datetime.now(UTC), allows_chunked=chunks, begun_by=begun_by)

    def select(self, length: int, validators: Validators) -> Whole | Slices | Unsatisfiable:
        """What Range and If-Range select of a sealed export of `length` bytes."""
        return select(self._range_for(validators), length)

    def select_live(self, validators: Validators) -> Whole | Positions:
        """What they ask of one that still grows."""
        return select_live(self._range_for(validators), conditional="if-range" in self.fields)

    def _range_for(self, validators: Validators) -> str | None:
        applies = range_applies(self.fields.get("if-range"), validators, self.at)
        return self.fields.get("range") if applies else None

    def is_modified(self, validators: Validators) -> bool:
        """False for 304. Raises PreconditionFailed."""
        verdict = evaluate(self.fields, validators, self.at)
        if verdict is Verdict.FAILED:
            raise PreconditionFailed("the export is not the one that If-Match or If-Unmodified-Since asks for")
        return verdict is not Verdict.NOT_MODIFIED

    def new_export_headers(self, export_id: UUID) -> dict[str, str]:
        """Where an export can be found again that began with this request."""
        if self.begun_by is None:
            return {}
        links, path = self.begun_by.app[LINKS], download_path(export_id)
        location = links.reference(path, request_path=self.begun_by.path)
        return {"X-Export-Id": str(export_id), "Content-Location": location}

    def coding(self, *, gzip_available: bool) -> Coding:
        """Raises NotAcceptable, and Unavailable where only gzip is acceptable and too many streams are under way."""
        if "range" in self.fields:
            return Coding.IDENTITY
        codings = acceptable(self.fields.get("accept-encoding"))
        accepted = [coding for coding in codings if coding is Coding.IDENTITY or self.allows_chunked]
        if not accepted:
            raise NotAcceptable("Accept-Encoding allows neither gzip nor identity, and there is nothing else")
        possible = [coding for coding in accepted if coding is Coding.IDENTITY or gzip_available]
        if not possible:
            raise Unavailable("too many gzip streams at once")
        return possible[0]


def _fields(request: web.Request) -> dict[str, str]:
    """A field that came in several lines is one list (RFC 9110, 5.3)."""
    return {name: ", ".join(lines) for name in FIELDS if (lines := request.headers.getall(name, None))}


def _filename(request: web.Request) -> str | None:
    asked = values_of(read_query(request), "filename")
    if not asked:
        return None
    safe = safe_filename(asked[0])
    if len(asked) > 1 or not safe:
        raise BadParameter("filename", "must be given once, and have a character that a file name may have")
    return safe


def validators(export_id: UUID, coding: Coding, last_modified: datetime | None = None) -> Validators:
    """Identity and gzip differ in their bytes, so they differ in their tags (RFC 9110, 8.8.3.3)."""
    tag = entity_tag(export_id)
    return Validators(f'{tag[:-1]}-gzip"' if coding is Coding.GZIP else tag, last_modified)


def content_headers(*, header: bool | None) -> dict[str, str]:
    """What can be said of an export before there is one. RFC 4180, 3: the parameter `header` is optional."""
    parameter = "" if header is None else f"; header={'present' if header else 'absent'}"
    return {"Content-Type": f"text/csv; charset=utf-8{parameter}", **REPRESENTATION}


def representation_headers(
    asked: DownloadRequest, export_id: UUID, label: ContentDescription, coding: Coding, validators: Validators
) -> dict[str, str]:
    headers = {
        **content_headers(header=label.header),
        "Content-Disposition": attachment(asked.filename or label.filename),
        "ETag": validators.etag,
        **asked.new_export_headers(export_id),
    }
    if validators.last_modified is not None:
        headers["Last-Modified"] = http_date(validators.last_modified)
    if coding is Coding.GZIP:
        headers["Content-Encoding"] = coding
    else:
        headers["Accept-Ranges"] = "bytes"
    return headers


def not_modified_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """RFC 9110, 15.4.5: of the fields of a 200 only those that a cache needs."""
    return {name: headers[name] for name in ("Cache-Control", "ETag", "Vary")}
