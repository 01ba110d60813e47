"""Downloads of sealed representations over real sockets: the table of the API, row by row, against the known bytes.

A representation is the CSV of a completed export, or one of its compressed files as a resource of its own: the table
holds for each word for word. The bytes of a compressed file are those of its first download, which decode to the CSV.

The rows are those of the API's own contract and of the test suites of Go's net/http (fs_test.go), nginx (range.t,
range_if_range.t, not_modified.t) and httpd (byterange*.t, maxranges.t). Every row is requested by GET and by HEAD on
one connection, of a file that is sent from memory and of one that is not.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from itertools import combinations_with_replacement
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec
import pytest
import pytest_asyncio

from streamer.coding import COMPRESSED, Coding
from streamer.config import Duration, Settings
from streamer.http.download.completed import MAX_COPIED_BODY
from streamer.http.net.sized_sender import MAX_PIECE, MIN_PIECE
from streamer.server import serving
from tests import seeds
from tests.codings import decoded, media_type, repr_digest, resource
from tests.conftest import ROWS as ALL_USERS
from tests.exporting import saved_as
from tests.held import scratch_database
from tests.polling import until
from tests.rawhttp import Answer, End, Fields, ask, connection

pytestmark = pytest.mark.asyncio(loop_scope="module")

KIB = 1024
USERS = {
    "header": 0,
    "small": 100,
    "large": 12_000,
    "vast": ALL_USERS,
}  # rows; 8 KB, 980 KB, 17 MB; less than a third of it compressed
OTHER = {Coding.IDENTITY: Coding.GZIP, Coding.GZIP: Coding.ZSTD, Coding.ZSTD: Coding.GZIP}
EXPRESSION = re.compile(r"(T|T/2|modified|etag|other|rfc850|asctime)([+-][0-9]+)?")


@dataclass(frozen=True)
class Sealed:
    """A representation of a completed export. It fills the blanks of a row: `{T-1}` is its last position.

    `other` is the entity tag of another representation of the export.
    """

    id: str
    coding: Coding
    whole: bytes
    modified: datetime
    etag: str
    other: str

    @property
    def download(self) -> str:
        return resource(self.id, self.coding)

    @property
    def media_type(self) -> str:
        return media_type(self.coding)

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, blank: str) -> str:
        found = EXPRESSION.fullmatch(blank)
        assert found, f"{blank} means nothing"
        name, offset = found[1], int(found[2] or 0)
        if name == "modified":
            return format_datetime(self.modified + timedelta(seconds=offset), usegmt=True)
        words = {
            "T": str(len(self) + offset),
            "T/2": str(len(self) // 2 + offset),
            "etag": self.etag,
            "other": self.other,
            # The other two forms of RFC 9110, 5.6.7.
            "rfc850": f"{self.modified:%A, %d-%b-%y %H:%M:%S} GMT",
            "asctime": f"{self.modified:%a %b} {self.modified.day:2d} {self.modified:%H:%M:%S %Y}",
        }
        return words[name]


@dataclass(frozen=True)
class Row:
    """A request, and its response: a status and, for 206, the first and last positions of the parts."""

    fields: Fields
    status: int
    parts: str = ""

    def __str__(self) -> str:
        return " ".join(f"{name}={value}"[:70] for name, value in self.fields.items()) or "nothing"


DIGITS = "9" * 4000
ONE_RANGE = {
    "bytes=0-4": "0-4",
    "bytes=0-0": "0-0",
    "bytes=2-": "2-{T-1}",
    "bytes=3-7": "3-7",
    "bytes=0-": "0-{T-1}",
    "bytes=0-{T-2}": "0-{T-2}",
    "bytes=0-{T-1}": "0-{T-1}",
    "bytes={T/2}-": "{T/2}-{T-1}",
    "bytes=1-{T/2}": "1-{T/2}",
    "bytes={T-1}-": "{T-1}-{T-1}",
    "bytes={T-1}-{T-1}": "{T-1}-{T-1}",
    # The last position is clamped, whatever its length.
    "bytes=0-{T}": "0-{T-1}",
    "bytes={T-1}-{T}": "{T-1}-{T-1}",
    "bytes=5-{T+1000}": "5-{T-1}",
    "bytes=0-999999999999": "0-{T-1}",
    "bytes=7-9223372036854775807": "7-{T-1}",
    "bytes=7-18446744073709551616": "7-{T-1}",
    f"bytes=7-{DIGITS}": "7-{T-1}",
    # The last so many bytes.
    "bytes=-1": "{T-1}-{T-1}",
    "bytes=-5": "{T-5}-{T-1}",
    "bytes=-100": "{T-100}-{T-1}",
    "bytes=-{T-1}": "1-{T-1}",
    "bytes=-{T}": "0-{T-1}",
    "bytes=-{T+1}": "0-{T-1}",
    "bytes=-18446744073709551616": "0-{T-1}",
    f"bytes=-{DIGITS}": "0-{T-1}",
    # The unit's case, leading zeros, white space and empty members around what is a list.
    "BYTES=0-4": "0-4",
    "Bytes=-5": "{T-5}-{T-1}",
    "bytes=0000-0004": "0-4",
    f"bytes={'0' * 4000}3-7": "3-7",
    "bytes= 0-4": "0-4",
    "bytes=0-4 ,": "0-4",
    "bytes=,\t,0-4,,": "0-4",
    # Of several only one is satisfiable.
    "bytes=0-4,{T}-": "0-4",
    "bytes={T}-,-5": "{T-5}-{T-1}",
    "bytes=-0,0-4": "0-4",
    f"bytes=8-9,{DIGITS}-": "8-9",
    # Several that are one: each begins where the one before it ends.
    "bytes=0-4,5-9": "0-9",
    "bytes=0-0,1-1,2-2,3-3,4-4,5-5,6-6,7-7": "0-7",
    "bytes=0-{T/2-1},{T/2}-": "0-{T-1}",
}
SEVERAL_RANGES = {
    "bytes=0-0,-2": "0-0 {T-2}-{T-1}",
    "bytes=0-1,5-8": "0-1 5-8",
    "bytes=0-1,5-": "0-1 5-{T-1}",
    "bytes=0-0,-1": "0-0 {T-1}-{T-1}",
    "bytes=0-1,-1": "0-1 {T-1}-{T-1}",
    "bytes=0-{T/2-2},{T/2}-": "0-{T/2-2} {T/2}-{T-1}",
    # In the requested order.
    "bytes=1000-1100,100-200": "1000-1100 100-200",
    "bytes=1000-1100,100-200,2000-2200": "1000-1100 100-200 2000-2200",
    "bytes=2500-,100-200,2000-2200": "2500-{T-1} 100-200 2000-2200",
    "bytes={T/2}-,0-{T/2-2}": "{T/2}-{T-1} 0-{T/2-2}",
    "bytes=5-10,1-3,99-99": "5-10 1-3 99-99",
    "bytes=0-9, -10, 20-29": "0-9 {T-10}-{T-1} 20-29",
    "bytes=0-9, -10, {T+100000}-, 20-29": "0-9 {T-10}-{T-1} 20-29",
    # Adjacent ones are joined, the others stay.
    "bytes=5-10,11-12,99-99": "5-12 99-99",
    "bytes=0-4,5-9,20-24,25-29": "0-9 20-29",
    # Eight, and eight with one that does not exist among them.
    "bytes=0-0,2-2,4-4,6-6,8-8,10-10,12-12,14-14": "0-0 2-2 4-4 6-6 8-8 10-10 12-12 14-14",
    "bytes=0-0,2-2,4-4,6-6,{T}-,8-8,10-10,12-12": "0-0 2-2 4-4 6-6 8-8 10-10 12-12",
}
UNSATISFIABLE = (
    "bytes={T}-",
    "bytes={T}-{T}",
    "bytes={T}-{T+1}",
    "bytes={T+1}-",
    "bytes={T+1}-{T+1}",
    "bytes={T}-{T+100}",
    "bytes=999999999999-",
    "bytes=18446744073709551616-18446744073709551617",
    f"bytes={DIGITS}-",
    "bytes=-0",
    "bytes=-000",
    "bytes=-0,-0",
    "bytes={T}-,{T+5}-{T+9}",
    "bytes={T+100000}-{T+110000},{T+200000}-",
)
IGNORED = (
    # More than eight.
    "bytes=0-0,2-2,4-4,6-6,8-8,10-10,12-12,14-14,16-16",
    "bytes=0-0,{T}-,{T}-,{T}-,{T}-,{T}-,{T}-,{T}-,{T}-",
    "bytes=" + ",".join("0-1,3-4" for _ in range(100)),
    "bytes=" + ",".join("0-" for _ in range(1500)),
    # Overlapping.
    "bytes=0-,1-,2-,3-,4-",
    "bytes=0-10001, 0-0",
    "bytes=0-5,3-8",
    "bytes=3-8,0-5",
    "bytes=0-4,4-8",
    "bytes=0-0,0-0",
    "bytes=0-,-1",
    "bytes=-5,-3",
    "bytes=0-100,70-100,1000-1001",
    "bytes=0-{T},0-{T}",
    # Bad syntax.
    "bytes=",
    "bytes=,",
    "bytes=-",
    "bytes=0-4,-",
    "bytes=7-1",
    "bytes={T}-1",
    "bytes=1-4,5-2",
    "bytes={T+1}-{T+2},5-2",
    "bytes=foo",
    "bytes=alpha-",
    "bytes=10-alpha",
    "bytes=10",
    "bytes=1-4,x",
    "bytes=10-11 12-",
    "bytes=0 - 4",
    "bytes=0- 4",
    "bytes=--5",
    "bytes=-5-",
    "bytes=+0-4",
    "bytes=0-+4",
    "bytes=0x0-0x4",
    "bytes=0.0-4.0",
    "bytes=0_0-4",
    "bytes=0-4;6-9",
    "bytes=0-4/10",
    "bytes=0-4, bytes=6-9",
    "bytes==0-4",
    "bytes =0-4",
    "bytes:0-4",
    "bytes 0-4",
    "bytes",
    "0-4",
    ",",
    "",
    "bytes=\u0660-\u0664",  # digits, but not of ASCII
    # A unit that is not bytes.
    "items=0-4",
    "none=0-4",
    "byte=0-4",
    "kilobytes=0-4",
    "=0-4",
)
IF_RANGE_HOLDS = ("{etag}", "{modified}", "{rfc850}", "{asctime}")
IF_RANGE_FAILS = (
    "W/{etag}",
    "w/{etag}",
    '"another"',
    '"{etag}"',
    "{etag}, {etag}",
    '{etag}, "another"',
    "*",
    "{modified+1}",
    "{modified-1}",
    "Mon, 28 Sep 1970 06:00:00 GMT",
    "wrong",
    '"',
    "W/",
    "",
    "1970-09-28T06:00:00Z",
)
FIVE = {"Range": "bytes=0-4"}
BEYOND = {"Range": "bytes={T}-"}
STALE, FRESH, FUTURE = "{modified-1}", "{modified}", "Fri, 25 Feb 2174 09:42:23 GMT"
PRECONDITIONS = (
    # If-Match compares strongly.
    Row({"If-Match": "{etag}"}, 200),
    Row({"If-Match": "*"}, 200),
    Row({"If-Match": '"Z", {etag}'}, 200),
    Row({"If-Match": '"foo", "bar", \t{etag} , "baz"'}, 200),
    Row({"If-Match": ('"foo"', "{etag}")}, 200),
    Row({"If-Match": '"a,b", {etag}'}, 200),
    Row({"If-Match": '"B"'}, 412),
    Row({"If-Match": "W/{etag}"}, 412),
    Row({"If-Match": "{other}"}, 412),
    Row({"If-Match": '"a, {etag}, b"'}, 412),
    Row({"If-Match": "foo"}, 412),
    Row({"If-Match": ""}, 412),
    # If-Unmodified-Since.
    Row({"If-Unmodified-Since": FRESH}, 200),
    Row({"If-Unmodified-Since": "{rfc850}"}, 200),
    Row({"If-Unmodified-Since": "{asctime}"}, 200),
    Row({"If-Unmodified-Since": "{modified+1}"}, 200),
    Row({"If-Unmodified-Since": FUTURE}, 200),
    Row({"If-Unmodified-Since": "yesterday"}, 200),
    Row({"If-Unmodified-Since": STALE}, 412),
    Row({"If-Unmodified-Since": "Mon, 28 Sep 1970 06:00:00 GMT"}, 412),
    # If-None-Match compares weakly.
    Row({"If-None-Match": "{etag}"}, 304),
    Row({"If-None-Match": "W/{etag}"}, 304),
    Row({"If-None-Match": "*"}, 304),
    Row({"If-None-Match": '"foo", "bar", {etag} , "baz"'}, 304),
    Row({"If-None-Match": '"baz", W/{etag}'}, 304),
    Row({"If-None-Match": ('"foo"', "{etag}")}, 304),
    Row({"If-None-Match": '"foo"'}, 200),
    Row({"If-None-Match": "{other}"}, 200),
    Row({"If-None-Match": ","}, 200),
    Row({"If-None-Match": ""}, 200),
    Row({"If-None-Match": "foo"}, 200),
    # If-Modified-Since.
    Row({"If-Modified-Since": FRESH}, 304),
    Row({"If-Modified-Since": "{rfc850}"}, 304),
    Row({"If-Modified-Since": "{asctime}"}, 304),
    Row({"If-Modified-Since": "{modified+1}"}, 304),
    Row({"If-Modified-Since": "Wed, 08 Jul 2037 22:53:52 GMT"}, 304),
    Row({"If-Modified-Since": "Tue, 19 Jan 2038 03:14:08 GMT"}, 304),
    Row({"If-Modified-Since": FUTURE}, 304),
    Row({"If-Modified-Since": STALE}, 200),
    Row({"If-Modified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"}, 200),
    Row({"If-Modified-Since": "{modified} "}, 304),
    Row({"If-Modified-Since": "{modified}; length=5"}, 200),
    Row({"If-Modified-Since": "Sat, 31 Feb 2099 00:00:00 GMT"}, 200),
    Row({"If-Modified-Since": "0"}, 200),
    Row({"If-Modified-Since": ""}, 200),
    # RFC 9110, 13.2.2: their order. A tag silences the date of its kind, and what fails goes before what is fresh.
    Row({"If-Match": "{etag}", "If-Unmodified-Since": STALE}, 200),
    Row({"If-Match": '"B"', "If-Unmodified-Since": FRESH}, 412),
    Row({"If-None-Match": '"B"', "If-Modified-Since": FRESH}, 200),
    Row({"If-None-Match": "{etag}", "If-Modified-Since": STALE}, 304),
    Row({"If-Match": "{etag}", "If-None-Match": "{etag}"}, 304),
    Row({"If-Match": '"B"', "If-None-Match": "{etag}"}, 412),
    Row({"If-Match": '"B"', "If-None-Match": '"B"'}, 412),
    Row({"If-Unmodified-Since": STALE, "If-Modified-Since": FRESH}, 412),
    Row({"If-Unmodified-Since": FRESH, "If-Modified-Since": FRESH}, 304),
    Row({"If-Unmodified-Since": FRESH, "If-Modified-Since": STALE}, 200),
    Row({"If-Unmodified-Since": STALE, "If-None-Match": "{etag}"}, 412),
    Row({"If-Match": "*", "If-Modified-Since": FRESH}, 304),
    # All of them go before Range and If-Range.
    Row({**FIVE, "If-Match": '"B"'}, 412),
    Row({**FIVE, "If-Match": "{etag}"}, 206, "0-4"),
    Row({**FIVE, "If-Unmodified-Since": STALE}, 412),
    Row({**FIVE, "If-Unmodified-Since": FRESH}, 206, "0-4"),
    Row({**FIVE, "If-None-Match": "{etag}"}, 304),
    Row({**FIVE, "If-None-Match": '"B"'}, 206, "0-4"),
    Row({**FIVE, "If-Modified-Since": FRESH}, 304),
    Row({**FIVE, "If-Modified-Since": STALE}, 206, "0-4"),
    Row({**BEYOND, "If-Match": '"B"'}, 412),
    Row({**BEYOND, "If-Match": "{etag}"}, 416),
    Row({**BEYOND, "If-None-Match": "{etag}"}, 304),
    Row({**BEYOND, "If-None-Match": '"B"'}, 416),
    Row({**FIVE, "If-Range": "{etag}", "If-None-Match": "{etag}"}, 304),
    Row({**FIVE, "If-Range": '"B"', "If-None-Match": "{etag}"}, 304),
    Row({**FIVE, "If-Range": "{etag}", "If-Match": '"B"'}, 412),
    Row({**FIVE, "If-Range": '"B"', "If-Match": "{etag}"}, 200),
    Row({**FIVE, "If-Range": FRESH, "If-Unmodified-Since": FRESH}, 206, "0-4"),
)
ROWS = (
    Row({}, 200),
    *(Row({"Range": text}, 206, part) for text, part in ONE_RANGE.items()),
    *(Row({"Range": text}, 206, parts) for text, parts in SEVERAL_RANGES.items()),
    *(Row({"Range": text}, 416) for text in UNSATISFIABLE),
    *(Row({"Range": text}, 200) for text in IGNORED),
    Row({"Range": ("bytes=0-4", "bytes=6-9")}, 200),
    *(Row({**FIVE, "If-Range": text}, 206, "0-4") for text in IF_RANGE_HOLDS),
    *(Row({**FIVE, "If-Range": text}, 200) for text in IF_RANGE_FAILS),
    *(Row({"If-Range": text}, 200) for text in ("{etag}", '"another"', "{modified}")),
    Row({"Range": "bytes=0-1,5-", "If-Range": "{etag}"}, 206, "0-1 5-{T-1}"),
    Row({"Range": "bytes=0-1,5-", "If-Range": '"another"'}, 200),
    Row({**BEYOND, "If-Range": "{etag}"}, 416),
    Row({**BEYOND, "If-Range": '"another"'}, 200),
    Row({"Range": "bytes=x", "If-Range": "{etag}"}, 200),
    *PRECONDITIONS,
    # A range without the tag of another representation selects from this one, whatever else is acceptable.
    Row({**FIVE, "Accept-Encoding": "gzip, zstd"}, 206, "0-4"),
    Row({**FIVE, "Accept-Encoding": "gzip", "If-Range": "{etag}"}, 206, "0-4"),
    Row({**FIVE, "Accept-Encoding": "identity", "If-Range": "{other}"}, 200),
    Row({**FIVE, "Accept-Encoding": "identity", "If-Range": "{modified}"}, 206, "0-4"),
    Row({"Range": "items=0-4", "Accept-Encoding": "gzip"}, 200),
)


@dataclass(frozen=True)
class Archive:
    """A server with an export of each size, in every coding."""

    url: str
    settings: Settings
    exports: Mapping[tuple[str, Coding], Sealed]

    async def export(self, rows: int, coding: Coding = Coding.IDENTITY) -> Sealed:
        """Makes a completed export of `rows` users, and returns it in this coding."""
        return (await self.representations(rows, [coding]))[coding]

    async def representations(self, rows: int, codings: Iterable[Coding]) -> dict[Coding, Sealed]:
        """Makes a completed export of `rows` users in these codings alone."""
        export_id = await self._completed(rows)
        answers = {coding: await self._whole(export_id, coding) for coding in codings}
        status = (await ask(self.url, "GET", f"/exports/{export_id}/status")).json()
        told = {"identity": {**status, "bytes": status["progress"]["bytes"]}, **status.get("representations", {})}
        content = b"".join(seeds.csv_bytes(seeds.rows(rows)))
        for coding, answer in answers.items():
            assert digest_of(decoded(coding, answer.body)) == digest_of(content)
            assert (told[coding]["bytes"], told[coding]["sha256"]) == (len(answer.body), digest_of(answer.body))
        tags = {coding: representation["etag"] for coding, representation in told.items()}
        return {
            coding: Sealed(export_id, coding, answer.body, modified(answer), tags[coding], tags.get(OTHER[coding], ""))
            for coding, answer in answers.items()
        }

    async def _completed(self, rows: int) -> str:
        created = await ask(self.url, "POST", f"/exports/csv?id__lte={rows}")
        assert created.status == 202
        export_id: str = created.json()["exportId"]

        async def sealed() -> bool:
            return (await ask(self.url, "HEAD", f"{resource(export_id)}?live=false")).status == 200

        await until(sealed, "the export is not completed")
        return export_id

    async def _whole(self, export_id: str, coding: Coding) -> Answer:
        """The sealed representation, which must have the bytes that came while it was made."""
        first = await ask(self.url, "GET", resource(export_id, coding))
        again = await ask(self.url, "GET", resource(export_id, coding))
        assert digest_of(first.body) == digest_of(again.body)
        return again

    def file(self, export: Sealed) -> Path:
        return self.settings.export_storage_path / f"{export.id}{export.coding.suffix}"

    async def cut_short_while_open(self, export: Sealed) -> None:
        """Truncates the file to its half after a download has opened it."""
        assert digest_of((await ask(self.url, "GET", export.download)).body) == digest_of(export.whole)
        with self.file(export).open("r+b") as file:
            file.truncate(len(export) // 2)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def archive(postgres: str, source_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Archive]:
    spool = tmp_path_factory.mktemp("sealed")
    async with scratch_database(postgres) as database:
        settings = Settings(
            database_url=database, source_database_url=source_url, api_port=0, export_storage_path=spool
        )
        async with serving(settings) as url:
            empty = Archive(url, settings, {})
            made = {size: await empty.representations(rows, Coding) for size, rows in USERS.items()}
            yield Archive(url, settings, {(size, coding): made[size][coding] for size in USERS for coding in Coding})


every_coding = pytest.mark.parametrize("coding", Coding)


@every_coding
@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_response_is_that_of_the_table(archive: Archive, row: Row, size: str, coding: Coding) -> None:
    export = archive.exports[size, coding]
    fields = {name: fill(value, export) for name, value in row.fields.items()}
    async with connection(archive.url) as client:
        answer = await client.ask("GET", export.download, fields)
        head = await client.ask("HEAD", export.download, fields)
    assert answer.status == row.status
    parts = [tuple(map(int, part.split("-"))) for part in row.parts.format_map(export).split()]
    if answer.status == 304:
        assert answer.body == b""
        assert answer.head.names == {"cache-control", "date", "etag", "server"} | varying(export.coding)
        check_cache_fields(answer, export)
    elif answer.status in (412, 416):
        check_problem(answer, export, ranged="Range" in row.fields)
    else:
        check_representation(answer, export)
        check_body(answer, export, parts)
    assert head.body == b""
    assert (head.status, steady_fields(head)) == (answer.status, steady_fields(answer))


@pytest.mark.parametrize(("coding", "status"), [(Coding.IDENTITY, 200), (Coding.GZIP, 206), (Coding.ZSTD, 206)])
async def test_date_in_if_range_names_no_bytes_where_the_client_accepts_another_coding(
    archive: Archive, coding: Coding, status: int
) -> None:
    """RFC 9110, 8.8.1: codings of one resource share a date. A compressed file has its own."""
    export = archive.exports["small", coding]
    for accepted in ("gzip", "identity, zstd;q=0.1", "*"):
        fields = {**FIVE, "If-Range": export["modified"], "Accept-Encoding": accepted}
        answer = await ask(archive.url, "GET", export.download, fields)
        assert answer.status == status
        check_representation(answer, export)
        check_body(answer, export, [(0, 4)])


def fill(value: str | tuple[str, ...], export: Sealed) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return value.format_map(export)
    return tuple(line.format_map(export) for line in value)


def varying(coding: Coding) -> set[str]:
    """A compressed file is the only representation of its resource."""
    return set() if coding in COMPRESSED else {"vary"}


def modified(answer: Answer) -> datetime:
    return parsedate_to_datetime(answer["Last-Modified"]).astimezone(UTC)


def check_cache_fields(answer: Answer, export: Sealed) -> None:
    assert answer["ETag"] == export.etag
    assert answer.get("Vary") == (None if export.coding in COMPRESSED else "Accept-Encoding")
    assert answer["Cache-Control"] == "private, no-transform"


def check_representation(answer: Answer, export: Sealed) -> None:
    check_cache_fields(answer, export)
    assert answer["Accept-Ranges"] == "bytes"
    assert answer["Last-Modified"] == export["modified"]
    assert answer["Repr-Digest"] == repr_digest(export.whole)
    assert saved_as(export.coding).fullmatch(answer["Content-Disposition"])
    assert answer["X-Accel-Buffering"] == "no"
    assert int(answer["Content-Length"]) == len(answer.body)
    assert "Content-Encoding" not in answer


def check_body(answer: Answer, export: Sealed, parts: list[tuple[int, ...]]) -> None:
    if answer.status == 206 and len(parts) > 1:
        check_multipart(answer, export, parts)
        return
    assert answer["Content-Type"] == export.media_type
    if answer.status == 200:
        assert "Content-Range" not in answer
        assert digest_of(answer.body) == digest_of(export.whole)
    else:
        ((first, last),) = parts
        assert answer["Content-Range"] == f"bytes {first}-{last}/{len(export)}"
        assert digest_of(answer.body) == digest_of(export.whole[first : last + 1])


def check_multipart(answer: Answer, export: Sealed, parts: list[tuple[int, ...]]) -> None:
    """RFC 9110, 14.6 and RFC 2046, 5.1.1. The field of a single part is not that of the whole."""
    assert "Content-Range" not in answer
    boundary = re.fullmatch(r"multipart/byteranges; boundary=([0-9A-Za-z]{1,70})", answer["Content-Type"])
    assert boundary
    preamble, *found, end = (b"\r\n" + answer.body).split(b"\r\n--" + boundary[1].encode())
    assert (preamble, end) == (b"", b"--\r\n")
    assert len(found) == len(parts)
    for part, (first, last) in zip(found, parts, strict=True):
        head, _, body = part.partition(b"\r\n\r\n")
        assert head.split(b"\r\n") == [
            b"",
            f"Content-Type: {export.media_type}".encode(),
            b"Content-Range: bytes %d-%d/%d" % (first, last, len(export)),
        ]
        assert digest_of(body) == digest_of(export.whole[first : last + 1])


def check_length(answer: Answer, *, ranged: bool) -> None:
    """An error for a Range has none: if it is the size of the file that curl has, curl reports a complete download."""
    if ranged:
        assert (answer.get("Content-Length"), answer["Transfer-Encoding"]) == (None, "chunked")
    else:
        assert int(answer["Content-Length"]) == len(answer.body)


def check_problem(answer: Answer, export: Sealed, *, ranged: bool) -> None:
    assert answer["Content-Type"] == "application/problem+json"
    assert answer["Cache-Control"] == "no-store"
    check_length(answer, ranged=ranged)
    assert (answer.json()["status"], answer.json()["instance"]) == (answer.status, export.download)
    assert answer.get("Content-Range") == (f"bytes */{len(export)}" if answer.status == 416 else None)
    assert not answer.head.names & {"etag", "last-modified", "repr-digest", "content-disposition"}


def steady_fields(answer: Answer) -> list[tuple[str, str]]:
    """Returns all fields but Date, the boundary, which differs between responses, and the framing of the body."""
    return sorted(
        (name, re.sub("boundary=.*", "", value))
        for name, value in answer.head.fields
        if name.lower() not in ("date", "transfer-encoding")
    )


def digest_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize(
    ("text", "status", "part"),
    [
        ("bytes=0-", 206, "0-{T-1}"),
        ("bytes=-1", 206, "{T-1}-{T-1}"),
        ("bytes={T-1}-", 206, "{T-1}-{T-1}"),
        ("bytes={T}-", 416, ""),
        ("bytes=0-1280", 206, "0-{T-1}"),
    ],
)
@every_coding
async def test_export_without_rows_has_ranges_of_its_header_line(
    archive: Archive, text: str, status: int, part: str, coding: Coding
) -> None:
    export = archive.exports["header", coding]
    answer = await ask(archive.url, "GET", export.download, {"Range": text.format_map(export)})
    assert answer.status == status
    if status == 206:
        check_body(answer, export, [tuple(map(int, part.format_map(export).split("-")))])


@every_coding
async def test_ranges_around_all_limits_of_the_senders_are_exact(archive: Archive, coding: Coding) -> None:
    export = archive.exports["vast", coding]
    edges = [edge + step for edge in (MAX_COPIED_BODY, MIN_PIECE, MAX_PIECE) for step in (-1, 0, 1)]
    limits = (0, 1, *dict.fromkeys(edges), len(export) - 1)
    assert len(export) > max(limits[:-1])
    async with connection(archive.url) as client:
        for first, last in combinations_with_replacement(limits, 2):
            answer = await client.ask("GET", export.download, {"Range": f"bytes={first}-{last}"})
            assert answer.status == 206
            check_body(answer, export, [(first, last)])


@every_coding
async def test_parts_that_span_several_pieces_are_exact(archive: Archive, coding: Coding) -> None:
    export = archive.exports["vast", coding]
    assert len(export) > MAX_PIECE + 100
    for middle in (MAX_PIECE + 10, len(export) - MAX_PIECE - 10):
        answer = await ask(archive.url, "GET", export.download, {"Range": f"bytes=0-{middle - 2},{middle}-"})
        assert answer.status == 206
        check_body(answer, export, [(0, middle - 2), (middle, len(export) - 1)])


@every_coding
async def test_overlapping_ranges_cover_every_byte(archive: Archive, coding: Coding) -> None:
    export = archive.exports["large", coding]
    walked = bytearray()
    async with connection(archive.url) as client:
        while len(walked) < len(export):
            end = min(len(walked) + 8192, len(export))
            answer = await client.ask("GET", export.download, {"Range": f"bytes={len(walked)}-{end}"})
            check_body(answer, export, [(len(walked), min(end, len(export) - 1))])
            walked += answer.body
    assert digest_of(bytes(walked)) == digest_of(export.whole)


@every_coding
async def test_pipelined_requests_are_answered_in_order(archive: Archive, coding: Coding) -> None:
    large, small = archive.exports["large", coding], archive.exports["small", coding]
    asked: list[tuple[str, Sealed, Fields, int, bytes]] = [
        ("GET", small, {"Range": "bytes=0-4"}, 206, small.whole[:5]),
        ("HEAD", large, {}, 200, b""),
        ("GET", large, {}, 200, large.whole),
        ("GET", small, {"If-None-Match": "*"}, 304, b""),
        ("GET", small, {"Range": f"bytes={len(small)}-"}, 416, b""),
        ("HEAD", small, {"Range": "bytes=0-0,2-2"}, 206, b""),
        ("GET", large, {"Range": "bytes=-300000"}, 206, large.whole[-300_000:]),
        ("GET", small, {}, 200, small.whole),
    ]
    async with connection(archive.url) as client:
        for method, export, fields, _, _ in asked:
            await client.send(method, export.download, fields)
        for method, _, _, status, body in asked:
            answer = await client.answer(method)
            assert answer.status == status
            assert status == 416 or digest_of(answer.body) == digest_of(body)


@every_coding
async def test_many_clients_read_ranges_of_one_export_at_once(archive: Archive, coding: Coding) -> None:
    export = archive.exports["vast", coding]
    distance = len(export) // 42

    async def read(number: int) -> None:
        first, last = number * distance, number * distance + 300_000  # overlapping, and too large to be copied
        answer = await ask(archive.url, "GET", export.download, {"Range": f"bytes={first}-{last}"})
        check_body(answer, export, [(first, last)])

    await asyncio.gather(*map(read, range(40)))


@every_coding
async def test_http_1_0_gets_a_length(archive: Archive, coding: Coding) -> None:
    export = archive.exports["large", coding]
    for fields, status, body in (
        ({}, 200, export.whole),
        ({"Range": "bytes=5-300000"}, 206, export.whole[5:300_001]),
    ):
        answer = await ask(archive.url, "GET", export.download, fields, version="1.0")
        assert answer.status == status
        assert "Content-Encoding" not in answer
        assert digest_of(answer.body) == digest_of(body)


@every_coding
async def test_id_in_upper_case_has_the_same_tag(archive: Archive, coding: Coding) -> None:
    export = archive.exports["small", coding]
    answer = await ask(archive.url, "GET", resource(export.id.upper(), coding))
    assert (answer.status, answer["ETag"]) == (200, export.etag)
    assert digest_of(answer.body) == digest_of(export.whole)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "name", ["0f2ab9b4-0000-4000-8000-000000000000", "1", "x" * 36, "%00", "..%2f..%2fetc%2fpasswd"]
)
@every_coding
async def test_unknown_id_gets_404_whatever_the_preconditions(
    archive: Archive, method: str, name: str, coding: Coding
) -> None:
    answer = await ask(archive.url, method, resource(name, coding), {"If-Match": '"foo"', "Range": "bytes=0-4"})
    assert answer.status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@every_coding
async def test_wrong_method_gets_405_with_allow(archive: Archive, method: str, coding: Coding) -> None:
    answer = await ask(archive.url, method, archive.exports["small", coding].download)
    assert (answer.status, set(answer["Allow"].split(","))) == (405, {"GET", "HEAD"})


@pytest.mark.parametrize(
    ("query", "status"), [("live=true", 200), ("live=false", 200), ("live=maybe", 400), ("live=true&live=false", 400)]
)
@every_coding
async def test_live_must_be_true_or_false_for_a_completed_export(
    archive: Archive, query: str, status: int, coding: Coding
) -> None:
    export = archive.exports["small", coding]
    answer = await ask(archive.url, "GET", f"{export.download}?{query}")
    assert answer.status == status
    if status == 400:
        assert answer.json()["parameter"] == "live"
    else:
        assert digest_of(answer.body) == digest_of(export.whole)


@every_coding
async def test_deleted_export_is_gone_while_running_downloads_get_the_whole(archive: Archive, coding: Coding) -> None:
    export = await archive.export(ALL_USERS, coding)
    middle = len(export) // 2
    asked: list[tuple[Fields, bytes]] = [
        ({}, export.whole),
        ({"Range": "bytes=7-"}, export.whole[7:]),
        ({"Range": f"bytes=0-{middle - 2},{middle}-"}, b""),
    ]
    async with (
        connection(archive.url, receive=16 * KIB) as first,
        connection(archive.url, receive=16 * KIB) as second,
        connection(archive.url, receive=16 * KIB) as third,
    ):
        readers = []
        for client, (fields, _) in zip((first, second, third), asked, strict=True):
            await client.send("GET", export.download, fields)
            readers.append(await client.begin())
        assert (await ask(archive.url, "DELETE", f"/exports/{export.id}")).status == 204
        assert not list(archive.settings.export_storage_path.glob(f"{export.id}*"))
        for method in ("GET", "HEAD"):
            gone = await ask(archive.url, method, export.download, {"If-None-Match": "*", "Range": "bytes=0-4"})
            assert gone.status == 410
        assert (await ask(archive.url, "DELETE", f"/exports/{export.id}")).status == 204
        bodies = await asyncio.gather(*(body.whole() for _, body in readers))
    for got, (_, expected) in zip(bodies[:2], asked[:2], strict=True):
        assert digest_of(got) == digest_of(expected)
    check_multipart(Answer(readers[2][0], bodies[2]), export, [(0, middle - 2), (middle, len(export) - 1)])


@pytest.mark.parametrize("damage", ["shorter", "empty", "longer", "missing"])
async def test_file_that_differs_from_the_sealed_one_is_never_served(archive: Archive, damage: str) -> None:
    export = await archive.export(40)
    file = archive.file(export)
    content = {"shorter": export.whole[:-1], "empty": b"", "longer": export.whole + b"\n", "missing": None}[damage]
    file.chmod(0o640)
    file.unlink() if content is None else file.write_bytes(content)
    async with serving(archive.settings) as url:  # a server that has not seen the file as it was
        for fields in ({}, {"Range": "bytes=0-4"}, {"Range": "bytes=0-4,8-9"}, {"Accept-Encoding": "gzip"}):
            assert (await ask(url, "GET", export.download, fields)).status == 410


@pytest.mark.parametrize("fields", [{}, {"Range": "bytes=0-4"}, {"Accept-Encoding": "gzip"}, {"If-None-Match": "*"}])
async def test_head_of_a_missing_file_is_refused_as_get_is(archive: Archive, fields: Fields) -> None:
    export = await archive.export(40)
    archive.file(export).unlink()
    async with serving(archive.settings) as url:
        for method in ("HEAD", "GET"):
            assert (await ask(url, method, export.download, fields)).status == 410


@pytest.mark.parametrize("rows", [USERS["small"], USERS["large"]])
@pytest.mark.parametrize("fields", [{}, {"Range": "bytes=1-"}, {"Range": "bytes=0-0,2-"}, {"Accept-Encoding": "gzip"}])
async def test_file_truncated_while_open_breaks_the_download(archive: Archive, rows: int, fields: Fields) -> None:
    export = await archive.export(rows)
    await archive.cut_short_while_open(export)
    async with connection(archive.url) as client:
        await client.send("GET", export.download, fields)
        head, body = await client.begin()
        assert head.status in (200, 206, 410)  # 410 if the machine was so busy that the file was opened again
        assert head.status == 410 or await body.finish() is not End.WHOLE


async def test_file_truncated_while_open_is_refused_when_it_is_opened_again(archive: Archive) -> None:
    export = await archive.export(40)
    await archive.cut_short_while_open(export)

    async def refused() -> bool:
        return (await ask(archive.url, "GET", export.download, {"Range": "bytes=0-0"})).status == 410

    await until(refused, "the damage is never noticed")


@every_coding
async def test_stopping_server_breaks_downloads_that_do_not_end_in_time(archive: Archive, coding: Coding) -> None:
    settings = msgspec.structs.replace(archive.settings, shutdown_timeout=Duration(0.2))
    export = archive.exports["vast", coding]
    async with AsyncExitStack() as clients, AsyncExitStack() as server:
        url = await server.enter_async_context(serving(settings))
        bodies = []
        for fields in ({}, {"Range": "bytes=5-"}, {"Range": "bytes=0-0,2-"}, {"Accept-Encoding": "gzip"}):
            client = await clients.enter_async_context(connection(url, receive=16 * KIB))
            await client.send("GET", export.download, fields)
            _, body = await client.begin()
            await body.grow_to(1000)
            bodies.append(body)
        await server.aclose()
        assert End.WHOLE not in [await body.finish() for body in bodies]
    assert bodies[0].received == export.whole[: len(bodies[0].received)]
    assert bodies[1].received == export.whole[5 : 5 + len(bodies[1].received)]


SAFE_NAMES = {
    "report.csv": 'filename="report.csv"',
    "a b.csv": 'filename="a b.csv"',
    "semi;colon=1,2.csv": 'filename="semi;colon=1,2.csv"',
    "Käse.csv": "filename=\"K_se.csv\"; filename*=UTF-8''K%C3%A4se.csv",
    "北京.csv": "filename=\"__.csv\"; filename*=UTF-8''%E5%8C%97%E4%BA%AC.csv",
    "\U0001f600.csv": "filename=\"_.csv\"; filename*=UTF-8''%F0%9F%98%80.csv",
    "it's (1)*.csv": 'filename="it\'s (1)_.csv"',
    "ü'%.csv": "filename=\"_'%.csv\"; filename*=UTF-8''%C3%BC%27%25.csv",
}


@pytest.mark.parametrize(("name", "expected"), SAFE_NAMES.items())
async def test_safe_filename_is_sent_in_both_forms_of_rfc_6266(archive: Archive, name: str, expected: str) -> None:
    export = archive.exports["small", Coding.IDENTITY]
    for method in ("GET", "HEAD"):
        answer = await ask(archive.url, method, f"{export.download}?filename={quote(name)}")
        assert answer.status == 200
        assert answer["Content-Disposition"] == f"attachment; {expected}"
    assert answer["ETag"] == export.etag


HOSTILE_NAMES = (
    'a"; filename="b.exe',
    "a\r\nSet-Cookie: stolen=1\r\n\r\n<script>",
    "a\nb",
    "nul\0byte.csv",
    "../../etc/passwd",
    "..\\..\\boot.ini",
    "/etc/passwd",
    "C:\\autoexec.bat",
    "\\\\server\\share",
    ".bashrc",
    "...hidden",
    " padded ",
    "trailing.",
    "a|b>c<d?e*f",
    "report\u202evsc.exe",
    "\u2066isolated\u2069",
    "marked\u200f\u200e\u061c",
    "delete\x7f\x9b31m",
    "x" * 5000,
    "長" * 200,
    "back\\slash",
    "percent%22quote",
    "utf-8''%22.csv",
)
UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f"*/:<>?\\|\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]')
DISPOSITION = re.compile(
    r"attachment; filename=\"([ !#-\[\]-~]+)\"(?:; filename\*=UTF-8''([!#$&+.^_`|~0-9A-Za-z%-]+))?"
)


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: ascii(name)[:40])
async def test_hostile_filename_is_made_harmless(archive: Archive, name: str) -> None:
    export = archive.exports["small", Coding.IDENTITY]
    plain = await ask(archive.url, "GET", export.download)
    answer = await ask(archive.url, "GET", f"{export.download}?filename={quote(name)}")
    assert answer.status == 200
    assert digest_of(answer.body) == digest_of(export.whole)
    assert answer.head.names == plain.head.names, "no field more and none less"
    disposition = DISPOSITION.fullmatch(answer["Content-Disposition"])
    assert disposition
    for form in (disposition[1], unquote(disposition[2] or "fine", errors="strict")):
        assert not UNSAFE.search(form)
        assert form == form.strip(" .")
        assert len(form.encode()) <= 255


@pytest.mark.parametrize(
    "query", ["filename=", "filename=.", "filename=..", "filename=%20.%20", "filename=a&filename=b"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_empty_or_repeated_filename_gets_400_with_the_parameter(
    archive: Archive, query: str, method: str
) -> None:
    answer = await ask(archive.url, method, f"{archive.exports['small', Coding.IDENTITY].download}?{query}")
    assert answer.status == 400
    if method == "GET":
        assert answer.json()["parameter"] == "filename"
