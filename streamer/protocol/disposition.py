"""Content-Disposition: RFC 6266, the name that a download is saved under."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Self
from urllib.parse import quote

from streamer.model import ExportSpec, Operator

UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f"*/:<>?\\|\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]')
PERCENT_ENCODED = re.compile(r"%(?=[0-9A-Fa-f]{2})")  # some browsers decode it (RFC 6266, appendix D)
MAX_NAME = 200  # bytes: file systems stop at 255, and browsers add a number
MAX_STEM = 150  # bytes
NO_PART_OF_A_NAME = re.compile(r"[^\w.]+")
MAX_FILTER = 12  # characters; a longer value is no use in a name, and may be nobody's business
MAX_FILTERS = 3
ATTR_CHAR = "!#$&+-.^_`|~"  # RFC 8187, 3.2.1, beside letters and digits


def safe_filename(name: str) -> str:
    """`name` without what a file system or a shell could take for something else: no folder, no dot file, no control.

    Empty if nothing is left.
    """
    cleaned = UNSAFE.sub("_", name).strip(" .")
    return cleaned.encode()[:MAX_NAME].decode(errors="ignore").strip(" .")


@dataclass(frozen=True, slots=True)
class ContentDescription:
    """What a download says of an export beside its bytes. Small: an export that waits has one, and not its request."""

    filename: str
    header: bool | None  # whether the first record has the names of the columns; None if that is not known

    @classmethod
    def of(cls, spec: ExportSpec | None, created_at: datetime) -> Self:
        return cls(default_filename(spec, created_at), None if spec is None else spec.dialect.header)


def default_filename(spec: ExportSpec | None, created_at: datetime) -> str:
    """`users_US_2026-11-21.csv`: the dataset, what it was filtered by if that is short, and the day (UTC).

    Without a spec that can be read it is `export_2026-11-21.csv`.
    """
    stem = safe_filename("" if spec is None else _stem(spec)).encode()[:MAX_STEM].decode(errors="ignore")
    return f"{stem or 'export'}_{created_at.astimezone(UTC).date().isoformat()}.csv"


def _stem(spec: ExportSpec) -> str:
    equal = ("-".join(each.values) for each in spec.conditions if each.operator is Operator.EQ)
    filters = [text for text in equal if len(text) <= MAX_FILTER][:MAX_FILTERS]
    parts = (NO_PART_OF_A_NAME.sub("-", text).strip("-.") for text in (spec.dataset, *filters))
    return "_".join(part for part in parts if part)


@lru_cache(maxsize=256)  # asked for again with every range of one export
def attachment(filename: str) -> str:
    """The field's value for a safe name: plain, and for a name outside ASCII in both forms (RFC 6266, appendix D)."""
    ascii_only = "".join(character if character.isascii() else "_" for character in filename)
    fallback = PERCENT_ENCODED.sub("_", ascii_only)
    plain = f'attachment; filename="{fallback}"'
    return plain if fallback == filename else f"{plain}; filename*=UTF-8''{quote(filename, safe=ATTR_CHAR)}"
