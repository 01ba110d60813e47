"""Range fields: what the tables of the public suites, RFC 9110, RFC 8673 and the README ask, and what they select.

A row is (length, field, outcome). Where suites disagree the RFC decides, then the README, and a comment names the suite
that answers otherwise.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, product
from time import thread_time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from werkzeug.http import parse_range_header

from streamer.protocol.ranges import (
    OPEN_END,
    Positions,
    RangeSpec,
    Slice,
    Slices,
    Suffix,
    Unsatisfiable,
    Whole,
    content_range,
    live_content_range,
    parse,
    select,
    select_live,
    unsatisfied_range,
)

Outcome = Whole | Slices | Unsatisfiable
Row = tuple[int, str | None, Outcome]

WHOLE = Whole()
UNSATISFIABLE = Unsatisfiable()
LONG = "9" * 10_000  # more digits than int() reads


def cut(*pieces: tuple[int, int]) -> Slices:
    """Slices by their `[start, stop)`."""
    return Slices(tuple(Slice(*piece) for piece in pieces))


# Go net/http, fs_test.go, ServeFileRangeTests: a file of 11 bytes.
GO_SERVE_FILE: list[Row] = [
    (11, None, WHOLE),
    (11, "bytes=0-4", cut((0, 5))),
    (11, "bytes=2-", cut((2, 11))),
    (11, "bytes=-5", cut((6, 11))),
    (11, "bytes=3-7", cut((3, 8))),
    (11, "bytes=0-0,-2", cut((0, 1), (9, 11))),
    (11, "bytes=0-1,5-8", cut((0, 2), (5, 9))),
    (11, "bytes=0-1,5-", cut((0, 2), (5, 11))),
    (11, "bytes=5-1000", cut((5, 11))),
    (11, "bytes=0-,1-,2-,3-,4-", WHOLE),  # Go: more bytes than the file has; here: they overlap
    (11, "bytes=0-9", cut((0, 10))),
    (11, "bytes=0-10", cut((0, 11))),
    (11, "bytes=0-11", cut((0, 11))),
    (11, "bytes=10-11", cut((10, 11))),
    (11, "bytes=10-", cut((10, 11))),
    (11, "bytes=11-", UNSATISFIABLE),
    (11, "bytes=11-12", UNSATISFIABLE),
    (11, "bytes=12-12", UNSATISFIABLE),
    (11, "bytes=11-100", UNSATISFIABLE),
    (11, "bytes=12-100", UNSATISFIABLE),
    (11, "bytes=100-", UNSATISFIABLE),
    (11, "bytes=100-1000", UNSATISFIABLE),
]

# Go net/http, fs_test.go, tests of single issues. Go: a malformed field is 416; here it is ignored (RFC 9110, 14.2).
GO_SERVE_CONTENT: list[Row] = [
    (8, "bytes=0-4", cut((0, 5))),  # TestServeContent, range_good
    (8, "bytes=10-20", UNSATISFIABLE),  # range_no_overlap
    (22, "bytes=--6", WHOLE),  # TestServeFileRejectsInvalidSuffixLengths; Go: 416
    (22, "bytes=--0", WHOLE),  # Go: 416
    (22, "bytes=---0", WHOLE),  # Go: 416
    (22, "bytes=-6", cut((16, 22))),
    (22, "bytes=6-", cut((6, 22))),
    (22, "bytes=-6-", WHOLE),  # Go: 416
    (22, "bytes=-0", UNSATISFIABLE),  # Go: 206 without a byte; RFC 9110, 14.1.2: not satisfiable
    (22, "bytes=", WHOLE),
    # TestServeContentWithEmptyContentIgnoreRanges; Go: 200. RFC 9110, 14.1.2: only a suffix could be satisfied.
    (0, "bytes=0-128", UNSATISFIABLE),
    (0, "bytes=1-", UNSATISFIABLE),
]

# Go net/http, range_test.go, ParseRangeTests. What Go refuses as malformed is ignored here.
GO_PARSE_RANGE: list[Row] = [
    (0, "", WHOLE),
    (1000, "", WHOLE),
    (0, "foo", WHOLE),
    (0, "bytes=", WHOLE),
    (10, "bytes=7", WHOLE),
    (10, "bytes= 7 ", WHOLE),
    (0, "bytes=1-", UNSATISFIABLE),
    (10, "bytes=5-4", WHOLE),
    (10, "bytes=0-2,5-4", WHOLE),
    (10, "bytes=2-5,4-3", WHOLE),
    (10, "bytes=--5,4--3", WHOLE),
    (10, "bytes=A-", WHOLE),
    (10, "bytes=A- ", WHOLE),
    (10, "bytes=A-Z", WHOLE),
    (10, "bytes= -Z", WHOLE),
    (10, "bytes=5-Z", WHOLE),
    (10, "bytes=Ran-dom, garbage", WHOLE),
    (10, "bytes=0x01-0x02", WHOLE),
    (10, "bytes=         ", WHOLE),
    (10, "bytes= , , ,   ", WHOLE),
    (10, "bytes=0-9", cut((0, 10))),
    (10, "bytes=0-", cut((0, 10))),
    (10, "bytes=5-", cut((5, 10))),
    (10, "bytes=0-20", cut((0, 10))),
    (10, "bytes=15-,0-5", cut((0, 6))),  # an earlier Go: refused for its first member; RFC: one that can be is enough
    (10, "bytes=1-2,5-", cut((1, 3), (5, 10))),
    (11, "bytes=-2 , 7-", WHOLE),  # Go: both, though they overlap
    (11, "bytes=0-0 ,2-2, 7-", cut((0, 1), (2, 3), (7, 11))),
    (10, "bytes=-5", cut((5, 10))),
    (10, "bytes=-15", cut((0, 10))),
    (10000, "bytes=0-499", cut((0, 500))),
    (10000, "bytes=500-999", cut((500, 1000))),
    (10000, "bytes=-500", cut((9500, 10000))),
    (10000, "bytes=9500-", cut((9500, 10000))),
    (10000, "bytes=0-0,-1", cut((0, 1), (9999, 10000))),
    (10000, "bytes=500-600,601-999", cut((500, 1000))),  # Go: two parts; the README joins what is adjacent
    (10000, "bytes=500-700,601-999", WHOLE),  # Go: both, though they overlap
    # Go accepts white space within a range, as an older httpd did; RFC 9110, 14.1.1 has none there.
    (11, "bytes=   1 -2   ,  4- 5, 7 - 8 , ,,", WHOLE),
]

# RFC 9110, 14.1.2: its examples, for 10,000 bytes, and its rules.
RFC_9110: list[Row] = [
    (10000, "bytes=0-499", cut((0, 500))),
    (10000, "bytes=500-999", cut((500, 1000))),
    (10000, "bytes=-500", cut((9500, 10000))),
    (10000, "bytes=9500-", cut((9500, 10000))),
    (10000, "bytes=0-0,-1", cut((0, 1), (9999, 10000))),
    (10000, "bytes= 0-999, 4500-5499, -1000", cut((0, 1000), (4500, 5500), (9000, 10000))),  # white space after "="
    (10000, "bytes=500-600,601-999", cut((500, 1000))),
    (10000, "bytes=500-700,601-999", WHOLE),  # valid there; the README answers no overlap (14.2: MAY ignore)
    (10, "bytes=-10", cut((0, 10))),
    (10, "bytes=-11", cut((0, 10))),  # "the entire representation is used"
    (10, "bytes=-0", UNSATISFIABLE),
    (0, "bytes=-0", UNSATISFIABLE),
    (0, "bytes=0-", UNSATISFIABLE),
    (0, "bytes=0-0", UNSATISFIABLE),
    (1, "bytes=0-0", cut((0, 1))),
    (1, "bytes=0-", cut((0, 1))),
    (1, "bytes=-1", cut((0, 1))),
    (1, "bytes=1-", UNSATISFIABLE),
]

# nginx-tests, range.t: 1,000 bytes. A malformed field is 416 in nginx.
NGINX_RANGE: list[Row] = [
    (1000, "bytes=0-8", cut((0, 9))),
    (1000, "bytes=-10", cut((990, 1000))),
    (1000, "bytes=990-", cut((990, 1000))),
    (1000, "bytes=990-1990", cut((990, 1000))),
    (1000, "bytes=0-9, -10, 10-19", cut((0, 10), (990, 1000), (10, 20))),
    (1000, "bytes=0-9, -10, 100000-, 10-19", cut((0, 10), (990, 1000), (10, 20))),
    (1000, "bytes=100000-", UNSATISFIABLE),
    (1000, "bytes=alpha", WHOLE),  # nginx: 416
    (1000, "bytes=10-alpha", WHOLE),  # nginx: 416
    (1000, "bytes=10", WHOLE),  # nginx: 416
    (1000, "bytes=10-11 12-", WHOLE),  # nginx: 416
    (1000, "bytes=0-10001", cut((0, 1000))),
    (1000, "bytes=0-10001, 0-0", WHOLE),  # nginx: more bytes than the file has; here: they overlap
    (1000, "bytes=0-9, -10", cut((0, 10), (990, 1000))),
    (1000, "bytes=0-9, -10, 10000-", cut((0, 10), (990, 1000))),
    (1000, "bytes=0-9, 10-19", cut((0, 20))),  # range_charset.t: two parts; the README joins what is adjacent
    (8, "bytes=0-4", cut((0, 5))),  # range_clearing.t
    (8, "bytes=0-2,4-", cut((0, 3), (4, 8))),  # range_clearing.t
    (8, "bytes=1000-", UNSATISFIABLE),  # range_clearing.t
    (913, "bytes=0-9", cut((0, 10))),  # range_flv.t
    (913, "bytes=-10", cut((903, 913))),  # range_flv.t
    (913, "bytes=0-99", cut((0, 100))),  # range_flv.t
]

# httpd, t/apache/byterange5.t: several ranges out of order, 8,000 bytes.
HTTPD_ORDER: list[Row] = [
    (8000, "bytes=0-1,1000-1001", cut((0, 2), (1000, 1002))),
    (8000, "bytes=1000-1100,100-200", cut((1000, 1101), (100, 201))),
    (8000, "bytes=1000-1100,100-200,2000-2200", cut((1000, 1101), (100, 201), (2000, 2201))),
    (8000, "bytes=1000-1100,100-200,2000-", cut((1000, 1101), (100, 201), (2000, 8000))),
    (8000, "bytes=3000-,100-200,2000-2200", cut((3000, 8000), (100, 201), (2000, 2201))),
]

# httpd, t/apache/byterange6.t: what does not overlap. httpd joins neighbours in either order, here only as they come.
HTTPD_ADJACENT: list[Row] = [
    (8000, "bytes=1-70,71-100,1000-1001", cut((1, 101), (1000, 1002))),
    (8000, "bytes=0-70,72-100,1000-1001", cut((0, 71), (72, 101), (1000, 1002))),
    (8000, "bytes=10-20,1-9,99-99", cut((10, 21), (1, 10), (99, 100))),  # httpd: 1-20,99-99
    (8000, "bytes=5-10,11-12,99-99", cut((5, 13), (99, 100))),
    (8000, "bytes=5-10,1-4,99-99", cut((5, 11), (1, 5), (99, 100))),  # httpd: 1-10,99-99
    (8000, "bytes=5-10,1-3,99-99", cut((5, 11), (1, 4), (99, 100))),
    (8000, "bytes=0-1,-1", cut((0, 2), (7999, 8000))),  # PR 51748
]

# httpd, t/apache/byterange6.t, and last byterange3.t: what httpd merges because it overlaps. the README: ignored.
# fmt: off
HTTPD_MERGED = (
    "0-100,70-100,1000-1001", "0-90,70-100,1000-1001", "0-70,70-100,1000-1001", "1-100,70-100,1000-1001",
    "1-90,70-100,1000-1001", "0-100,70-100,1000-1001,5-6", "0-90,70-100,1000-1001,5-6", "0-70,70-100,1000-1001,5-6",
    "1-100,70-100,1000-1001,5-6", "1-90,70-100,1000-1001,5-6", "1-70,70-100,1000-1001", "1-70,69-100,1000-1001",
    "1-70,0-100,1000-1001", "1-70,1-100,1000-1001", "1-70,2-100,1000-1001", "0-100,0-99,1000-1001",
    "0-100,0-100,1000-1001", "0-100,0-101,1000-1001", "0-100,1-99,1000-1001", "0-100,1-100,1000-1001",
    "0-100,1-101,1000-1001", "0-100,50-99,1000-1001", "0-100,50-100,1000-1001", "0-100,50-101,1000-1001",
    "1-10,1-9,99-99", "1-10,1-10,99-99", "1-10,1-11,99-99", "1-10,0-9,99-99", "1-10,0-10,99-99", "1-10,0-11,99-99",
    "1-10,0-12,99-99", "1-10,0-13,99-99", "1-10,2-11,99-99", "1-10,2-12,99-99", "1-10,2-13,99-99", "1-11,1-10,99-99",
    "1-9,1-10,99-99", "0-11,1-10,99-99", "10-20,1-10,99-99", "10-20,1-11,99-99", "10-20,1-21,99-99",
    "5-8192,0-8191,5-8182,0-8191",
)
# fmt: on

# httpd, t/apache/byterange7.t: 40,000 bytes; each malformed field with its unit and without.
HTTPD_INVALID: list[Row] = [
    *((40000, text, WHOLE) for text in ("", ",", "7-1", "foo", "1-4,x", "1-4,5-2", "100000-110000,5-2")),
    *((40000, f"bytes={text}", WHOLE) for text in (",", "7-1", "foo", "1-4,x", "1-4,5-2", "100000-110000,5-2")),
    (40000, "bytes=100000-110000", UNSATISFIABLE),
    (40000, "bytes=100000-110000,200000-", UNSATISFIABLE),
    (40000, "bytes=1000-200000", cut((1000, 40000))),
    (40000, "bytes=100000-110000,1000-2000", cut((1000, 2001))),
    (40000, "bytes=100000-110000,2000-1000", WHOLE),
    (8000, "bytes=0-100,200-300", cut((0, 101), (200, 301))),  # maxranges.t
    (8000, "bytes=0-100,200-300,400-500", cut((0, 101), (200, 301), (400, 501))),  # maxranges.t
    (8000, "bytes=" + "0-1,3-4,0-1,3-4," * 25, WHOLE),  # maxranges.t, the middle one; httpd: 206 up to 200 ranges
    (8000, "bytes=" + "0-1,3-4,0-1,3-4," * 51, WHOLE),  # maxranges.t, the long one
    (6549, "bytes=6549-", UNSATISFIABLE),  # t/filter/byterange.t, PR 61860
]

# jshttp range-parser, test/range-parser.js. It drops a malformed member and keeps the rest; RFC 9110, 14.1.1 does not.
RANGE_PARSER: list[Row] = [
    (200, "bytes=100200", WHOLE),
    (200, "bytes=,100200", WHOLE),
    (200, "malformed", WHOLE),
    (200, "bytes=x-100", WHOLE),
    (200, "bytes=100-x", WHOLE),
    (200, "bytes=--100", WHOLE),
    (200, "bytes=100--200", WHOLE),
    (200, "bytes=-", WHOLE),
    (200, "bytes= - ", WHOLE),
    (200, "bytes=,", WHOLE),
    (200, "bytes= , , ", WHOLE),
    (200, "bytes=100-200-300", WHOLE),
    (200, "bytes=-100-150", WHOLE),
    (200, "bytes=01a-150", WHOLE),
    (200, "bytes=100-15b0", WHOLE),
    (200, "bytes=y-v,x-", WHOLE),
    (200, "bytes=500-600", UNSATISFIABLE),
    (200, "bytes=500-600,601-700", UNSATISFIABLE),
    (200, "bytes=500-20", WHOLE),  # range-parser: -1, not satisfiable
    (200, "bytes=500-999,1000-1499", UNSATISFIABLE),
    (200, "bytes=abc-def,500-999", WHOLE),  # range-parser: -1
    (200, "bytes=500-999,xyz-uvw", WHOLE),  # range-parser: -1
    (200, "bytes=0-499", cut((0, 200))),
    (1000, "bytes=40-80", cut((40, 81))),
    (1000, "bytes=-400", cut((600, 1000))),
    (1000, "bytes=400-", cut((400, 1000))),
    (1000, "bytes=0-0", cut((0, 1))),
    (1000, "bytes=-1", cut((999, 1000))),
    (1000, "bytes=100-200,x-", WHOLE),  # range-parser: 100-200
    (1000, "bytes=x-,0-100,y-", WHOLE),  # range-parser: 0-100
    (1000, "bytes=0-50,abc-def,100-150", WHOLE),  # range-parser: 0-50,100-150
    (1000, "bytes=40-80,81-90,-1", cut((40, 91), (999, 1000))),
    (200, "bytes=0-499,1000-,500-999", cut((0, 200))),
    (1000, "bytes=   40-80 , 81-90 , -1 ", cut((40, 91), (999, 1000))),
    (1000, "items=0-5", WHOLE),
    (150, "bytes=0-4,90-99,5-75,100-199,101-102", WHOLE),  # range-parser, combine: 0-75,90-149
    (150, "bytes=-1,20-100,0-1,101-120", cut((149, 150), (20, 101), (0, 2), (101, 121))),  # combine: 149-149,20-120,0-1
    (1000, "bytes= , 0-10", cut((0, 11))),
]

# The README, "Downloads", and what download clients and other servers are known to do wrong.
API: list[Row] = [
    (1000, None, WHOLE),
    (1000, "bytes=1000-", UNSATISFIABLE),
    (1000, "bytes=-0", UNSATISFIABLE),
    (1000, "bytes=0-999999999999", cut((0, 1000))),
    (1000, "bytes=-100", cut((900, 1000))),
    (1000, "bytes=0-,", cut((0, 1000))),
    (1000, "bytes=-0,0-0", cut((0, 1))),
    (1000, "bytes=0-0,-0", cut((0, 1))),
    (1000, "bytes=0-499,500-999", cut((0, 1000))),  # together T, and joined to one
    (1000, "bytes=500-,0-499", cut((500, 1000), (0, 500))),
    (1000, "bytes=0-0,0-0", WHOLE),
    (1000, "bytes=-1,999-", WHOLE),
    (1000, "bytes=0-9,5-5000", WHOLE),
    (1000, f"bytes=0-{OPEN_END}", cut((0, 1000))),  # RFC 8673: a client of a growing export that finds it sealed
    (1000, f"bytes=999-{OPEN_END}", cut((999, 1000))),
    (1000, f"bytes=1000-{OPEN_END}", UNSATISFIABLE),
]

# The unit (RFC 9110, 14.1): case-insensitive, and nothing but a known one.
UNITS: list[Row] = [
    (10, "BYTES=0-4", cut((0, 5))),
    (10, "Bytes=0-4", cut((0, 5))),
    (10, "bYtEs=0-4", cut((0, 5))),
    (10, "byte=0-4", WHOLE),
    (10, "bytess=0-4", WHOLE),
    (10, "octets=0-4", WHOLE),
    (10, "none=0-4", WHOLE),
    (10, "seconds=0-4", WHOLE),
    (10, "bytes 0-4", WHOLE),
    (10, "bytes 0-4/10", WHOLE),  # a Content-Range
    (10, "bytes:0-4", WHOLE),
    (10, "bytes", WHOLE),
    (10, "bytes =0-4", WHOLE),  # werkzeug: 0-4
    (10, " bytes=0-4", WHOLE),
    (10, "\nbytes=0-4", WHOLE),
    (10, "=0-4", WHOLE),
    (10, "0-4", WHOLE),
    (10, "bytes==0-4", WHOLE),
    (10, "bytes=bytes=0-4", WHOLE),
    (10, '"bytes"=0-4', WHOLE),
]

# Several lines of one field are one list (RFC 9110, 5.3), so a unit in the second line is no range.
LINES: list[Row] = [
    (10, ", ".join(["bytes=0-1", "4-5"]), cut((0, 2), (4, 6))),
    (10, ", ".join(["bytes=0-1", "bytes=4-5"]), WHOLE),
    (10, ", ".join(["bytes=0-1", ""]), cut((0, 2))),
    (10, ", ".join(["", "bytes=0-1"]), WHOLE),
]

# White space and empty members (RFC 9110, 5.6.1.2 and 5.6.3).
SPACES: list[Row] = [
    (10, "bytes=,0-4", cut((0, 5))),
    (10, "bytes=0-4,", cut((0, 5))),
    (10, "bytes=,,0-1,,\t,4-5 ,", cut((0, 2), (4, 6))),
    (10, "bytes=0-1\t,\t4-5", cut((0, 2), (4, 6))),
    (10, "bytes=\t0-4 \t", cut((0, 5))),
    (10, "bytes=0 -4", WHOLE),
    (10, "bytes=0- 4", WHOLE),
    (10, "bytes=1 0-14", WHOLE),
    (10, "bytes=0-4 5-6", WHOLE),
    (10, "bytes=0-4;5-6", WHOLE),
    (10, "bytes=0-4\n", WHOLE),
    (10, "bytes=0-4\r\n", WHOLE),
    (10, "bytes=0-4\r\n,6-7", WHOLE),
    (10, "bytes=0-4\x00", WHOLE),
    (10, "bytes=0-4\x0b", WHOLE),
    (10, "bytes=\x0c0-4", WHOLE),
    (10, "bytes=\xa00-4", WHOLE),  # a no-break space
    (10, "bytes=\u30000-4", WHOLE),  # an ideographic space
]

# Numbers are ASCII digits of any length (RFC 9110, 14.1.2), and nothing else that int() would read.
NUMBERS: list[Row] = [
    (10, "bytes=00-04", cut((0, 5))),
    (10, "bytes=-005", cut((5, 10))),
    (10, "bytes=-000", UNSATISFIABLE),
    (10, "bytes=0002-", cut((2, 10))),
    (10, "bytes=4-03", WHOLE),
    (10, "bytes=\uff10-\uff14", WHOLE),  # full-width
    (10, "bytes=0-\uff14", WHOLE),
    (10, "bytes=-\uff14", WHOLE),
    (10, "bytes=\u0660-\u0664", WHOLE),  # Arabic
    (10, "bytes=0-\u06f4", WHOLE),  # Persian
    (10, "bytes=-\u0966", WHOLE),  # Devanagari
    (10, "bytes=0-\xb2", WHOLE),  # superscript
    (10, "bytes=0-1_0", WHOLE),
    (10, "bytes=+0-4", WHOLE),
    (10, "bytes=0-+4", WHOLE),
    (10, "bytes=-+4", WHOLE),
    (10, "bytes=-1-4", WHOLE),
    (10, "bytes=0.0-4", WHOLE),
    (10, "bytes=0-1e1", WHOLE),
    (10, "bytes=0x0-4", WHOLE),
    (10, "bytes=0\u20134", WHOLE),  # an en dash
    (10, "bytes=0\u22124", WHOLE),  # a minus sign
    (10, "bytes=*-*", WHOLE),
    (10, "bytes=*", WHOLE),
    (2**70, f"bytes={2**64}-{2**64 + 1}", cut((2**64, 2**64 + 2))),
    (2**63 + 10, f"bytes={2**63 - 1}-{2**63}", cut((2**63 - 1, 2**63 + 1))),
    (10, f"bytes=5-{2**64}", cut((5, 10))),
    (10, f"bytes={2**64}-", UNSATISFIABLE),
    (10, f"bytes=-{2**64}", cut((0, 10))),
    (10, f"bytes=5-{LONG}", cut((5, 10))),
    (10, f"bytes={LONG}-", UNSATISFIABLE),
    (10, f"bytes={LONG}-{LONG}", UNSATISFIABLE),
    (10, f"bytes=-{LONG}", cut((0, 10))),
    (10, f"bytes={LONG}-5", WHOLE),
    (10, f"bytes={'0' * 10_000}5-{'0' * 10_000}6", cut((5, 7))),
    (10, f"bytes=-{'0' * 10_000}", UNSATISFIABLE),
    (10, f"bytes={'0' * 10_000}6-5", WHOLE),
]

TABLES = {
    "Go ServeFile": GO_SERVE_FILE,
    "Go ServeContent": GO_SERVE_CONTENT,
    "Go parseRange": GO_PARSE_RANGE,
    "RFC 9110": RFC_9110,
    "nginx range.t": NGINX_RANGE,
    "httpd byterange5.t": HTTPD_ORDER,
    "httpd byterange6.t": HTTPD_ADJACENT,
    "httpd byterange7.t": HTTPD_INVALID,
    "range-parser": RANGE_PARSER,
    "readme": API,
    "units": UNITS,
    "lines": LINES,
    "spaces": SPACES,
    "numbers": NUMBERS,
}


def rows() -> list[object]:
    """Every row, named by its table and its field."""
    return [
        pytest.param(*row, id=f"{table}: {str(row[1])[:50]} of {row[0]}"[:90].encode("unicode_escape").decode())
        for table, rows in TABLES.items()
        for row in rows
    ]


@pytest.mark.parametrize(("length", "field", "outcome"), rows())
def test_field_selects_the_slices_of_the_table(length: int, field: str | None, outcome: Outcome) -> None:
    assert select(field, length) == outcome


@pytest.mark.parametrize("members", HTTPD_MERGED)
def test_overlapping_ranges_are_ignored_where_httpd_merges_them(members: str) -> None:
    assert select(f"bytes={members}", 8000) == WHOLE


@pytest.mark.parametrize("count", range(1, 9))
def test_allowed_number_of_ranges_is_sent(count: int) -> None:
    members = [(100 * index, 100 * index + 2) for index in range(count)]  # httpd, t/apache/byterange7.t
    field = ",".join(f"{start}-{stop - 1}" for start, stop in members)
    assert select(f"bytes={field}", 40000) == cut(*members)


@pytest.mark.parametrize("count", [9, 10, 50, 100])  # httpd: 206 for all of them; the README: at most 8
def test_more_ranges_than_allowed_are_ignored(count: int) -> None:
    field = ",".join(f"{100 * index}-{100 * index + 1}" for index in range(count))
    assert select(f"bytes={field}", 40000) == WHOLE


@pytest.mark.parametrize(
    "members",
    [
        "0-0," * 8 + "0-0",  # the same one
        "0-0,2-2,4-4,6-6,8-8,10-10,12-12,14-14,99999-",  # nginx counts only what it can satisfy
        ",".join(f"{90_000 + index}-" for index in range(9)),  # none of them exists
        ",".join(f"{index}-{index}" for index in range(9)),  # joined they would be one
    ],
)
def test_ranges_are_counted_before_they_are_resolved(members: str) -> None:
    assert select(f"bytes={members}", 40000) == WHOLE


def test_empty_members_are_not_counted() -> None:
    assert select("bytes=" + "," * 100 + "0-1", 10) == cut((0, 2))


def test_file_requested_in_consecutive_steps_arrives_whole() -> None:
    """httpd, t/apache/byterange.t: pieces of 8,193 bytes, the last one asked for beyond the end."""
    length, received = 100_000, 0
    while received < length:
        selected = select(f"bytes={received}-{min(received + 8192, length)}", length)
        assert isinstance(selected, Slices)
        assert selected.slices[0].start == received
        received = selected.slices[0].stop
    assert received == length


def test_every_pair_of_boundaries_selects_exactly_the_bytes_between() -> None:
    """httpd, t/apache/byterange4.t."""
    length, block = 8000, 200
    edges = [0, 1, 2, length - 2, length - 1]
    edges += [at + step for at in (block, 3 * block, length - block) for step in (-2, -1, 0, 1)]
    for first, last in product(edges, edges):
        expected = cut((first, last + 1)) if first <= last else WHOLE
        assert select(f"bytes={first}-{last}", length) == expected


def test_suffix_of_an_empty_export_is_the_whole_of_it() -> None:
    assert select("bytes=-5", 0) == WHOLE


def test_unit_outside_ascii_is_unknown() -> None:
    assert select("byte\u017f=0-4", 10) == WHOLE


@pytest.mark.parametrize("digits", [41, 5000])
def test_long_last_position_below_the_first_is_malformed(digits: int) -> None:
    field = f"bytes=2{'0' * (digits - 1)}-1{'0' * (digits - 1)}"
    assert select(field, 10) == WHOLE


# parse


@pytest.mark.parametrize(
    ("field", "specs"),
    [
        (None, None),
        ("", None),
        ("bytes=", None),
        ("bytes=0-", (Positions(0, None),)),
        ("bytes=0-0", (Positions(0, 0),)),
        ("bytes=-0", (Suffix(0),)),
        ("bytes=-7", (Suffix(7),)),
        ("bytes=3-5,-2,9-", (Positions(3, 5), Suffix(2), Positions(9, None))),
        ("bytes=3-5,3-5", (Positions(3, 5), Positions(3, 5))),
        (f"bytes=0-{OPEN_END}", (Positions(0, OPEN_END),)),
    ],
)
def test_field_is_parsed_as_the_client_wrote_it(field: str | None, specs: tuple[RangeSpec, ...] | None) -> None:
    assert parse(field) == specs


# Live: the README, "Resume"

LIVE = [
    (None, WHOLE),
    ("bytes=0-0", Positions(0, 0)),
    ("bytes=3-5", Positions(3, 5)),
    ("BYTES=3-5", Positions(3, 5)),
    ("bytes= 3-5 ,", Positions(3, 5)),
    (f"bytes=5-{OPEN_END}", Positions(5, OPEN_END)),  # RFC 8673
    (f"bytes={2**64}-{2**65}", Positions(2**64, 2**65)),
    ("bytes=-1", WHOLE),
    ("bytes=-0", WHOLE),
    ("bytes=0-1,4-5", WHOLE),
    ("bytes=0-1,2-3", WHOLE),  # sealed they are joined
    ("bytes=0-1,-1", WHOLE),
    ("bytes=0-0,0-0", WHOLE),
    ("items=0-5", WHOLE),
    ("bytes=5-3", WHOLE),
    ("bytes=5", WHOLE),
    ("bytes=\uff10-\uff14", WHOLE),
    ("", WHOLE),
]


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize(("field", "outcome"), LIVE)
def test_live_field_selects_the_range_of_the_table(
    field: str | None, outcome: Whole | Positions, *, conditional: bool
) -> None:
    assert select_live(field, conditional=conditional) == outcome


def test_live_open_range_is_followed() -> None:
    assert select_live("bytes=7-", conditional=False) == Positions(7, None)


def test_live_open_range_of_a_browser_gets_the_whole() -> None:
    assert select_live("bytes=7-", conditional=True) == WHOLE


# Content-Range


def test_slice_has_the_length_between_its_ends() -> None:
    assert Slice(3, 10).length == 7


@pytest.mark.parametrize(
    ("piece", "length", "value"),
    [
        (Slice(0, 500), 1234, "bytes 0-499/1234"),  # RFC 9110, 14.4
        (Slice(500, 1000), 1234, "bytes 500-999/1234"),
        (Slice(500, 1234), 1234, "bytes 500-1233/1234"),
        (Slice(734, 1234), 1234, "bytes 734-1233/1234"),
        (Slice(42, 1234), 1234, "bytes 42-1233/1234"),
        (Slice(0, 1), 1, "bytes 0-0/1"),
    ],
)
def test_content_range_names_the_last_byte_inclusively(piece: Slice, length: int, value: str) -> None:
    assert content_range(piece, length) == value


@pytest.mark.parametrize(
    ("positions", "value"),
    [
        (Positions(0, 0), "bytes 0-0/*"),
        (Positions(42, 1233), "bytes 42-1233/*"),  # RFC 9110, 14.4
        (Positions(42, None), "bytes 42-9007199254740991/*"),  # RFC 8673, 3.2
        (Positions(42, OPEN_END), "bytes 42-9007199254740991/*"),
        (Positions(42, 2**64), "bytes 42-18446744073709551616/*"),
    ],
)
def test_live_content_range_echoes_the_last_position(positions: Positions, value: str) -> None:
    assert live_content_range(positions) == value


@pytest.mark.parametrize("digits", [41, 5000])
def test_live_range_of_any_length_is_echoed_as_text_or_ignored(digits: int) -> None:
    field = "bytes=0-" + "9" * digits
    asked = select_live(field, conditional=False)  # RFC 8673: the last position is repeated as the client wrote it
    assert asked == WHOLE or (
        isinstance(asked, Positions) and live_content_range(asked) == f"{field}/*".replace("=", " ")
    )


def test_unsatisfied_range_names_the_length() -> None:
    assert unsatisfied_range(47022) == "bytes */47022"  # RFC 9110, 14.4


# Time


@pytest.mark.parametrize(
    "field",
    [
        "b" * 8192,
        "bytes=" + "-" * 8186,
        "bytes=" + "," * 8186,
        "bytes=" + " " * 8186,
        "bytes=" + " \t" * 4092 + "x",
        "bytes=" + " ," * 4093,
        "bytes=" + "0" * 8186,
        "bytes=" + "9" * 8186,
        "bytes=" + "9" * 8185 + "-",
        "bytes=-" + "9" * 8185,
        "bytes=" + "9" * 4092 + "-" + "9" * 4092,
        "bytes=" + "0-," * 2728,
        "bytes=" + "-1," * 2728,
        "bytes=" + "9-0," * 2046,
        "bytes=" + "1-" * 4093,
        "bytes=0" + " " * 8180 + "-1",
        "bytes=" * 1365,
    ],
    ids=lambda field: f"{field[:12]}...{field[-6:]}",
)
def test_field_of_8_kilobytes_is_parsed_at_once(field: str) -> None:
    begun = thread_time()
    for _ in range(10):
        assert select(field, 10**12) in (WHOLE, UNSATISFIABLE, cut((0, 10**12)))
        assert isinstance(select_live(field, conditional=False), Whole | Positions)
    assert thread_time() - begun < 1


# Properties

MEMBERS = st.one_of(
    st.builds(Positions, st.integers(0, 14), st.none() | st.integers(0, 14)),
    st.builds(Suffix, st.integers(0, 14)),
)


def written(spec: RangeSpec) -> str:
    if isinstance(spec, Suffix):
        return f"-{spec.length}"
    return f"{spec.first}-{'' if spec.last is None else spec.last}"


def field_of(specs: Sequence[RangeSpec], separator: str = ",") -> str:
    return "bytes=" + separator.join(map(written, specs))


def holds(spec: RangeSpec, position: int, length: int) -> bool:
    """RFC 9110, 14.1.2, of one byte."""
    if isinstance(spec, Suffix):
        return position >= length - spec.length
    return spec.first <= position and (spec.last is None or position <= spec.last)


def meaning(specs: Sequence[RangeSpec], length: int) -> Whole | Unsatisfiable | list[int]:
    """The positions in the order in which they were asked for, found by looking at each."""
    if any(isinstance(spec, Positions) and spec.last is not None and spec.last < spec.first for spec in specs):
        return WHOLE
    if len(specs) > 8:
        return WHOLE
    asked = [position for spec in specs for position in range(length) if holds(spec, position, length)]
    if not asked:
        return UNSATISFIABLE
    return WHOLE if max(Counter(asked).values()) > 1 else asked


@settings(deadline=None, max_examples=400)
@given(st.lists(MEMBERS, min_size=1, max_size=10), st.integers(1, 12))
@example([Positions(5, 6), Positions(7, None), Positions(0, 4)], 12)
@example([Positions(0, 0)] * 9, 12)
def test_selected_bytes_agree_with_a_check_of_each_position(specs: list[RangeSpec], length: int) -> None:
    selected = select(field_of(specs), length)
    if isinstance(selected, Slices):
        assert [position for piece in selected.slices for position in range(*piece)] == meaning(specs, length)
        assert all(before.stop != after.start for before, after in pairwise(selected.slices))
    else:
        assert selected == meaning(specs, length)


@settings(deadline=None, max_examples=400)
@given(st.sets(st.integers(0, 60), min_size=2, max_size=8), st.data())
def test_disjoint_ranges_are_joined_in_the_order_of_the_request(edges: set[int], data: st.DataObject) -> None:
    ends = sorted(edges)
    pieces = data.draw(st.permutations([Slice(*pair) for pair in zip(ends[::2], ends[1::2], strict=False)]))
    length = data.draw(st.integers(ends[-1], 100))
    selected = select(field_of([Positions(piece.start, piece.stop - 1) for piece in pieces]), length)
    assert isinstance(selected, Slices)
    assert [at for piece in selected.slices for at in range(*piece)] == [at for piece in pieces for at in range(*piece)]
    ordered = sorted(selected.slices)
    assert all(before.stop <= after.start for before, after in pairwise(ordered))
    assert ordered[0].start >= 0
    assert ordered[-1].stop <= length


@settings(deadline=None, max_examples=300)
@given(MEMBERS.filter(lambda spec: spec != Suffix(0)), st.integers(1, 12))
def test_single_satisfiable_range_agrees_with_werkzeug(spec: RangeSpec, length: int) -> None:
    theirs = parse_range_header(field_of([spec]))
    # Its versions disagree about a suffix of 0, and have no answer to one longer than the representation.
    found = theirs.range_for_length(length) if theirs else None
    if found is not None:
        assert select(field_of([spec]), length) == cut(found)
    elif theirs is None:
        assert select(field_of([spec]), length) == WHOLE
    elif isinstance(spec, Positions):
        assert select(field_of([spec]), length) == UNSATISFIABLE


@settings(deadline=None, max_examples=300)
@given(
    st.sets(st.integers(0, 10**15), min_size=1, max_size=12),
    st.integers(0, 10**15),
    st.sampled_from(["", "suffix", "open"]),
    st.sampled_from([",", ", ", " ,\t"]),
)
def test_ascending_ranges_agree_with_werkzeug(edges: set[int], rest: int, end: str, separator: str) -> None:
    """werkzeug reads several ranges only in ascending order, and none after an open one or a suffix."""
    ends = sorted(edges)
    length = ends[-1] + rest + 2
    specs: list[RangeSpec] = [Positions(a, b - 1) for a, b in zip(ends[::2], ends[1::2], strict=False)]
    if end == "suffix":
        specs.append(Suffix(length - ends[-1]))
    if end == "open" or not specs:
        specs.append(Positions(ends[-1], None))
    theirs = parse_range_header(field_of(specs, separator))
    assert theirs is not None
    read = [
        Slice(length + begin if begin < 0 else begin, length if stop is None else stop) for begin, stop in theirs.ranges
    ]
    joined = read[:1]
    for piece in read[1:]:
        if piece.start == joined[-1].stop:
            joined[-1] = Slice(joined[-1].start, piece.stop)
        else:
            joined.append(piece)
    assert select(field_of(specs, separator), length) == Slices(tuple(joined))


@settings(deadline=None)
@given(
    st.lists(MEMBERS, min_size=1, max_size=8), st.lists(st.sampled_from([",", " ,", ",\t", ", ,", ",,"]), min_size=9)
)
def test_white_space_and_empty_members_change_nothing(specs: list[RangeSpec], between: list[str]) -> None:
    padded = (
        "bytes=" + between[0] + "".join(f"{written(spec)}{gap}" for spec, gap in zip(specs, between[1:], strict=False))
    )
    assert parse(padded) == parse(field_of(specs))


NEARLY = st.text("0123456789-, \tbytes=\u0664\uff10x;\n", max_size=40)
FIELDS = st.one_of(st.text(max_size=60), NEARLY.map("bytes={}".format), st.lists(MEMBERS, min_size=1).map(field_of))


@settings(deadline=None, max_examples=500)
@given(FIELDS, st.integers(0, 30) | st.integers(0, 2**80))
def test_any_text_selects_nothing_outside_of_the_representation(field: str, length: int) -> None:
    selected = select(field, length)
    if isinstance(selected, Slices):
        assert selected.slices
        assert all(0 <= piece.start < piece.stop <= length for piece in selected.slices)
        assert sum(piece.length for piece in selected.slices) <= length
    else:
        assert selected in (WHOLE, UNSATISFIABLE)


@settings(deadline=None, max_examples=500)
@given(FIELDS, st.integers(0, 30), st.data())
def test_live_answer_is_never_contradicted_by_the_sealed_one(field: str, length: int, data: st.DataObject) -> None:
    """For any final length: the same range, clamped, or 416 if the export ends before it."""
    conditional = data.draw(st.booleans())
    asked = select_live(field, conditional=conditional)
    if isinstance(asked, Positions):
        stop = length if asked.last is None else min(asked.last + 1, length)
        expected = cut((asked.first, stop)) if asked.first < length else UNSATISFIABLE
        assert select(field, length) == expected
        assert not (conditional and asked.last is None)
    else:
        assert asked == WHOLE


@settings(deadline=None)
@given(st.integers(0, 14), st.none() | st.integers(0, 14))
def test_live_answer_to_a_single_well_formed_range_is_that_range(first: int, last: int | None) -> None:
    valid = last is None or first <= last
    assert select_live(field_of([Positions(first, last)]), conditional=False) == (
        Positions(first, last) if valid else WHOLE
    )
