"""The file of datasets: its format, and the configuration of each dataset.

    [datasets.orders]                     # the name that clients use
    relation = "sales.orders"             # as in DATASETS, where it must be allowed; default: the name
    description = "One row for each order"
    columns = ["id", "total", "placed_at"]  # all others are hidden; or:
    hidden = ["card_number"]
    filters = { tenant = 7, deleted_at__isnull = true }  # always applied
    required = ["placed_at"]              # an export must have a condition on these
    order_by = ["-placed_at", "id"]       # unless the export has another order
    limit = 100000                        # rows at most

The relation is exported only as the file configures it, not by the name that DATASETS gives it.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Annotated, Any

import msgspec

from streamer.errors import StartError, one_of
from streamer.source.catalog.suggestions import no_such

SETTING = "DATASETS_FILE"
EXPECTED = re.compile(r"Expected `([^`]*)`( of length >= 1| >= 1)?")
UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
TYPES = {"str": "a text", "int": "a whole number", "array": "a list", "object": "a table"}  # by msgspec's names
Rows = Annotated[int, msgspec.Meta(ge=1, lt=2**63 - 1)]
Named = Annotated[str, msgspec.Meta(min_length=1)]


class DatasetConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the file: the configuration of a dataset."""

    relation: Named | None = None
    description: str | None = None
    columns: tuple[Named, ...] | None = None
    hidden: tuple[Named, ...] = ()
    filters: Mapping[str, Any] = {}
    required: tuple[Named, ...] = ()
    order_by: tuple[Named, ...] | Named = ()
    limit: Rows | None = None

    @property
    def restricts(self) -> bool:
        """Whether the dataset offers less than the relation has."""
        return bool(self.columns is not None or self.hidden or self.filters or self.required or self.limit is not None)

    @property
    def order(self) -> tuple[str, ...]:
        return (self.order_by,) if isinstance(self.order_by, str) else self.order_by


def read_configuration(path: Path | None) -> Mapping[str, DatasetConfig]:
    """Returns the configurations by dataset name. Raises StartError with one line that names the place."""
    if path is None:
        return {}
    try:
        parsed = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartError(f"{SETTING}: {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartError(f"{SETTING}: {path} is not TOML: {' '.join(str(error).split())}") from error
    if others := sorted(parsed.keys() - {"datasets"}):
        raise StartError(f"{SETTING}: unknown entry {others[0]!r}; each dataset is a table such as [datasets.orders]")
    tables = parsed.get("datasets", {})
    if not isinstance(tables, dict):
        raise StartError(f"{SETTING}: datasets must be a table such as [datasets.orders]")
    return {name: _read_table(name, table) for name, table in tables.items()}


def _read_table(name: str, table: object) -> DatasetConfig:
    """Raises StartError that names the entry."""
    if not name:
        raise StartError(f"{SETTING}: the name of a dataset must not be empty")
    try:
        return msgspec.convert(table, DatasetConfig)
    except msgspec.ValidationError as error:
        complaint, _, place = str(error).partition(" - at `$")
        raise StartError(f"{SETTING}: datasets.{name}{place.rstrip('`')}{_plain(complaint)}") from error


def _plain(complaint: str) -> str:
    """Turns a complaint of msgspec into the end of a sentence."""
    if unknown := UNKNOWN.fullmatch(complaint):
        entries = [field.name for field in msgspec.structs.fields(DatasetConfig)]
        return f": {no_such('entry', unknown[1], entries)}"
    expected = EXPECTED.match(complaint)
    if expected is None:
        return f": {complaint}"
    if expected[2]:
        return " must not be empty" if "length" in expected[2] else " must be at least 1"
    return f" must be {one_of([TYPES[name] for name in expected[1].split(' | ') if name in TYPES])}"


def texts_of(value: Any) -> Sequence[str]:
    """Returns a value of the file, or a list of values, as a request would write them. Raises ValueError."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ValueError("must not be an empty list")
    return [_text_of(each) for each in values]


def _text_of(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case datetime() | date() | time():
            return value.isoformat()
        case str() | int() | float():
            return str(value)
        case _:
            raise ValueError("must be a text, a number, true or false, a date, or a list of these")
