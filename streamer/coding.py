"""The codings of an export: its CSV as it is, and compressed.

An export has one representation in each coding. Each is a file of its own, with a length and a digest of its own; the
names here are those of HTTP (RFC 9110, 8.4.1; RFC 8878, 7.2) and of the files.
"""

from enum import StrEnum


class Coding(StrEnum):
    IDENTITY = "identity"
    GZIP = "gzip"
    ZSTD = "zstd"

    @property
    def suffix(self) -> str:
        """The suffix of the names of its files."""
        return SUFFIXES[self]

    @property
    def media_type(self) -> str:
        """The type of a file that is not decoded by its reader: RFC 6713 and RFC 8878, 7.1."""
        return MEDIA_TYPES[self]


SUFFIXES = {Coding.IDENTITY: ".csv", Coding.GZIP: ".csv.gz", Coding.ZSTD: ".csv.zst"}
MEDIA_TYPES = {
    Coding.IDENTITY: "text/csv",
    Coding.GZIP: "application/gzip",
    Coding.ZSTD: "application/zstd",
}
COMPRESSED = (Coding.GZIP, Coding.ZSTD)
