"""FILE.part.json: the export that the bytes of FILE.part belong to, and the coding that they have.

It is written atomically, and before the first byte of the part, so a part without it is not of this client. It is not
synced with the part: after a power failure it may list pieces that are not on the disk. The SHA-256 at the end decides.
"""

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import msgspec

from streamer.client.errors import LocalFileError, Replaced
from streamer.client.pieces import merge
from streamer.coding import Coding
from streamer.protocol.ranges import Slice

REMEDY = "remove it, or replace it with --force"
CONTINUED = {
    Coding.IDENTITY: "without --gzip, --zstd and --compressed",
    Coding.GZIP: "with --gzip or --compressed",
    Coding.ZSTD: "with --zstd",
}


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """`url` is that of the download. `pieces` is None for a part that is written from its beginning on.

    `etag` is empty before the first byte of a compressed file that the server has not begun yet.
    """

    export_id: UUID
    url: str
    etag: str
    pieces: list[tuple[int, int]] | None = None
    coding: Coding = Coding.IDENTITY  # which earlier versions do not write

    @property
    def slices(self) -> list[Slice] | None:
        return None if self.pieces is None else merge(Slice(start, stop) for start, stop in self.pieces)

    def with_slices(self, slices: Sequence[Slice] | None) -> "Metadata":
        pieces = None if slices is None else [(piece.start, piece.stop) for piece in slices]
        return msgspec.structs.replace(self, pieces=pieces)


class MetadataFile:
    def __init__(self, part: Path) -> None:
        self._path = part.with_name(f"{part.name}.json")

    def read(self) -> Metadata | None:
        """Returns None if the file does not exist or cannot be decoded. Raises OSError."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Metadata)
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def write(self, metadata: Metadata) -> None:
        """Raises OSError."""
        fresh = self._path.with_name(f"{self._path.name}.new")
        fresh.write_bytes(msgspec.json.encode(metadata) + b"\n")
        fresh.replace(self._path)

    def remove(self) -> None:
        """Raises OSError."""
        self._path.unlink(missing_ok=True)


def mismatch(
    part: Path, found: Metadata | None, *, export_id: UUID | None, etag: str | None, coding: Coding
) -> LocalFileError | Replaced | None:
    """Returns an error if the bytes of a part do not belong to the representation.

    A new export has no id yet. An `etag` of None is not known yet: that of the response will be compared.
    """
    if found is None:
        return LocalFileError(f"{part} exists, but its export is not known; {REMEDY}")
    if found.export_id != export_id:
        return LocalFileError(f"{part} is a part of another export, {found.url}; finish that download, or {REMEDY}")
    if found.coding is not coding:
        return LocalFileError(
            f"{part} has the {found.coding} bytes of this export, and those of {coding} cannot continue them; finish"
            f" that download {CONTINUED[found.coding]}, or {REMEDY}"
        )
    if etag not in (None, found.etag):
        etags = f"its ETag is {etag}, and that of {part} is {found.etag}"
        return Replaced(f"the export was replaced: {etags}; {REMEDY}")
    return None
