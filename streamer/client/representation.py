"""The representations of an export: the CSV itself, and compressed files with bytes and digests of their own.

The saved file may differ from the transferred one: a compressed file can be decoded into the CSV. It is then verified
twice, with its own SHA-256 and, decoded, with that of the export.
"""

from dataclasses import dataclass
from typing import Self

from streamer.client.decoding import ensure_decodable
from streamer.client.status import ExportStatus
from streamer.coding import Coding
from streamer.model import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Representation:
    """One representation of an export at one moment.

    The server makes a compressed one when it is requested, and its `etag` is None as long as it is not known. `bytes`
    and `sha256` are final once it is `completed`.
    """

    export: ExportStatus
    coding: Coding
    etag: str | None
    completed: bool = False
    bytes: int = 0
    sha256: str | None = None  # in hexadecimal

    @classmethod
    def of(cls, export: ExportStatus, coding: Coding) -> Self:
        if coding is Coding.IDENTITY:
            return cls(
                export=export,
                coding=coding,
                etag=export.etag,
                completed=export.completed,
                bytes=export.progress.bytes,
                sha256=export.sha256,
            )
        found = (export.representations or {}).get(coding)
        if found is None or found.state == State.FAILED:  # it will be made again, perhaps with another tag
            return cls(export=export, coding=coding, etag=None)
        return cls(
            export=export,
            coding=coding,
            etag=found.etag,
            completed=found.state == State.COMPLETED,
            bytes=found.bytes,
            sha256=found.sha256,
        )


@dataclass(frozen=True, slots=True)
class Transfer:
    """The coding that is transferred, and whether it is decoded afterwards."""

    coding: Coding
    decode: bool

    @classmethod
    def of(cls, coding: str | None, *, decode: bool, named: Coding = Coding.IDENTITY) -> Self:
        """Returns what a caller asks for, who leaves out `coding` for that of the URL, which is `named`.

        Raises ValueError for an unknown coding, and Refused if it cannot be decoded here.
        """
        default = Coding.GZIP if decode and named is Coding.IDENTITY else named
        chosen = default if coding is None else Coding(coding)
        if decode:
            ensure_decodable(chosen)
        return cls(chosen, decode and chosen is not Coding.IDENTITY)

    @property
    def file_coding(self) -> Coding:
        """The coding of the file that is saved."""
        return Coding.IDENTITY if self.decode else self.coding
