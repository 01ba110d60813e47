"""Reads download requests, and selects the representation for the response.

A compressed representation is asked for in two ways. As a content coding of the CSV, by Accept-Encoding: a client
decodes it while it downloads, and resumes with the number of decoded bytes, so a Range selects from the CSV itself,
unless If-Range names the compressed representation. Or as a file of its own, by its URL: then it is a resource like any
other, and a Range selects from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from aiohttp import HttpVersion11, web

from streamer.coding import Coding
from streamer.errors import BadParameter, ExportGone, NotAcceptable, PreconditionFailed
from streamer.http.api.status import coding_of_tag, entity_tag
from streamer.http.links import LINKS, download_path
from streamer.http.target import read_query, values_of
from streamer.model import Representation
from streamer.protocol.conditions import Validators, Verdict, evaluate, http_date, range_applies
from streamer.protocol.disposition import ContentDescription, attachment, safe_filename
from streamer.protocol.encoding import preferences
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
    file: Coding | None = None  # the compressed file as a resource of its own; None: the CSV, in any content coding

    @classmethod
    def from_request(cls, request: web.Request, file: Coding | None = None) -> "DownloadRequest":
        """Reads the request for an export that exists. Raises BadParameter and BadTarget."""
        return cls._of(request, _fields(request), is_new=False, file=file)

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
    def _of(
        cls, request: web.Request, fields: Mapping[str, str], *, is_new: bool, file: Coding | None = None
    ) -> "DownloadRequest":
        return cls(
            request=request,
            fields=fields,
            filename=_filename(request),
            received_at=datetime.now(UTC),
            is_new=is_new,
            allows_chunked=request.version >= HttpVersion11,
            file=file,
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
        strong = validators if self._date_is_strong else Validators(validators.etag, None)
        applies = range_applies(self.fields.get("if-range"), strong, self.received_at)
        return self.fields.get("range") if applies else None

    @property
    def _date_is_strong(self) -> bool:
        """The codings of one resource share a date, which names bytes if the client accepts one of them alone."""
        accepted = preferences(self.fields.get("accept-encoding", Coding.IDENTITY))
        return self.file is not None or accepted == ((Coding.IDENTITY,),)

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

    def codings(self, at_hand: Callable[[Coding], bool] = lambda coding: False) -> tuple[Coding, ...]:
        """Returns the codings that Accept-Encoding allows, the best first. Raises NotAcceptable.

        Of those that the client likes equally, the first are the ones `at_hand`, which exist already; then gzip, which
        costs less CPU than zstd.
        """
        groups = preferences(self.fields.get("accept-encoding"))
        codings = tuple(coding for group in groups for coding in sorted(group, key=at_hand, reverse=True))
        if not codings:
            raise NotAcceptable("Accept-Encoding allows none of the codings that there are: gzip, zstd and identity")
        return codings

    def codings_of(self, export_id: UUID, at_hand: Callable[[Coding], bool]) -> tuple[Coding, ...]:
        """Returns the codings that the response may have, as `codings`; of a range, those that it may select from."""
        if "range" not in self.fields:
            return self.codings(at_hand)
        named = coding_of_tag(self.fields.get("if-range", ""), export_id)
        acceptable = {coding for group in preferences(self.fields.get("accept-encoding")) for coding in group}
        if named is None or named is Coding.IDENTITY or named not in acceptable:
            return (Coding.IDENTITY,)
        return (named, Coding.IDENTITY)


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


def validators(
    download: DownloadRequest,
    export_id: UUID,
    representation: Representation | None = None,
    last_modified: datetime | None = None,
) -> Validators:
    """Returns the validators of a representation, None for the CSV itself. All have different tags (RFC 9110, 8.8.3.3).

    A date that two codings of one resource share would be a weak validator (RFC 9110, 8.8.1).
    """
    shares_date = representation is not None and download.file is None
    return Validators(entity_tag(export_id, representation), None if shares_date else last_modified)


def ensure_same_bytes(download: DownloadRequest, representation: Representation | None) -> None:
    """A client that resumes a file without a validator must not get other bytes. Raises ExportGone."""
    if download.file is not None and representation is not None and representation.generation > 1:
        raise ExportGone(
            "this compressed file could not be made again with the same bytes; get it by Accept-Encoding, or start"
            " a new export"
        )


def content_headers(*, header: bool | None) -> dict[str, str]:
    """Returns the header fields that do not depend on an export. RFC 4180, 3: the parameter `header` is optional."""
    parameter = "" if header is None else f"; header={'present' if header else 'absent'}"
    return {"Content-Type": f"text/csv; charset=utf-8{parameter}", **REPRESENTATION}


def representation_headers(
    download: DownloadRequest, export_id: UUID, content: ContentDescription, coding: Coding, validators: Validators
) -> dict[str, str]:
    headers = {
        **content_headers(header=content.header),
        "Content-Disposition": attachment(_attachment_name(download, content)),
        "ETag": validators.etag,
        "Accept-Ranges": "bytes",
        **download.new_export_headers(export_id),
    }
    if validators.last_modified is not None:
        headers["Last-Modified"] = http_date(validators.last_modified)
    if download.file is not None:
        del headers["Vary"]
        headers["Content-Type"] = download.file.media_type
    elif coding is not Coding.IDENTITY:
        headers["Content-Encoding"] = coding
    return headers


def _attachment_name(download: DownloadRequest, content: ContentDescription) -> str:
    """The client's own name is taken as it is; the name of the CSV gets the suffix of the file."""
    if download.filename or download.file is None:
        return download.filename or content.filename
    return content.filename.removesuffix(Coding.IDENTITY.suffix) + download.file.suffix


def not_modified_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Returns the header fields of a 304: those of a 200 that a cache needs (RFC 9110, 15.4.5)."""
    return {name: headers[name] for name in ("Cache-Control", "ETag", "Vary") if name in headers}
