"""Content-Disposition: RFC 6266, the name under which a client saves a download."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Self
from urllib.parse import quote

from streamer.model import ExportSpec, Operator

UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f"*/:<>?\\|\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]')
PERCENT_ENCODED = re.compile(r"%(?=[0-9A-Fa-f]{2})")  # some browsers decode it (RFC 6266, appendix D)
MAX_NAME = 200  # bytes: file systems allow 255, and browsers add a number
MAX_STEM = 150  # bytes
NOT_IN_STEM = re.compile(r"[^\w.]+")
MAX_FILTER = 12  # characters; a longer value is of no use in a name, and may be private
MAX_FILTERS = 3
ATTR_CHAR = "!#$&+-.^_`|~"  # RFC 8187, 3.2.1, beside letters and digits


def safe_filename(name: str) -> str:
    """Returns `name` without characters special to a file system or a shell: no folder, no dot file, no control.

    The result may be empty.
    """
    cleaned = UNSAFE.sub("_", name).strip(" .")
    return cleaned.encode()[:MAX_NAME].decode(errors="ignore").strip(" .")


@dataclass(frozen=True, slots=True)
class ContentDescription:
    """The metadata of an export that a download needs. Small: a waiting export keeps this instead of its request."""

    filename: str
    header: bool | None  # whether the first record has the names of the columns; None if unknown

    @classmethod
    def of(cls, spec: ExportSpec | None, created_at: datetime) -> Self:
        return cls(default_filename(spec, created_at), None if spec is None else spec.dialect.header)


def default_filename(spec: ExportSpec | None, created_at: datetime) -> str:
    """Returns a name such as `users_US_2026-11-21.csv`: the dataset, short filter values, and the day (UTC).

    Without a readable spec it is `export_2026-11-21.csv`.
    """
    stem = safe_filename("" if spec is None else _stem(spec)).encode()[:MAX_STEM].decode(errors="ignore")
    return f"{stem or 'export'}_{created_at.astimezone(UTC).date().isoformat()}.csv"


def _stem(spec: ExportSpec) -> str:
    equal = ("-".join(each.values) for each in spec.conditions if each.operator is Operator.EQ)
    filters = [text for text in equal if len(text) <= MAX_FILTER][:MAX_FILTERS]
    parts = (NOT_IN_STEM.sub("-", text).strip("-.") for text in (spec.dataset, *filters))
    return "_".join(part for part in parts if part)


@lru_cache(maxsize=256)  # the same for every range of one export
def attachment(filename: str) -> str:
    """Returns the field's value for a safe name; a name outside ASCII in both forms (RFC 6266, appendix D)."""
    ascii_only = "".join(character if character.isascii() else "_" for character in filename)
    fallback = PERCENT_ENCODED.sub("_", ascii_only)
    plain = f'attachment; filename="{fallback}"'
    return plain if fallback == filename else f"{plain}; filename*=UTF-8''{quote(filename, safe=ATTR_CHAR)}"
