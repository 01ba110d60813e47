"""The names of spools: the id of the export, and a suffix for the coding."""

from typing import NamedTuple
from uuid import UUID

from streamer.coding import Coding

SUFFIXES = tuple(coding.suffix for coding in Coding)


class SpoolName(NamedTuple):
    """One file: an export in one coding."""

    export_id: UUID
    coding: Coding = Coding.IDENTITY

    @property
    def file_name(self) -> str:
        return f"{self.export_id}{self.coding.suffix}"

    @classmethod
    def parse(cls, file_name: str) -> "SpoolName | None":
        """Returns None for a file that is no spool: such a file is never changed."""
        for coding in Coding:
            stem = file_name.removesuffix(coding.suffix)
            if stem != file_name and (export_id := _export_id(stem)):
                return cls(export_id, coding)
        return None


def _export_id(stem: str) -> UUID | None:
    """None for a file that is no spool: such a file is never changed."""
    try:
        export_id = UUID(stem)
    except ValueError:
        return None
    return export_id if str(export_id) == stem else None
