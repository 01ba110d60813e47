"""The general parameters of an export: all that are not conditions.

The table says what each one allows, for the documentation and for messages, and has the function that reads it.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from streamer.durations import read_duration, written_duration
from streamer.errors import BadParameter, one_of, shown
from streamer.formats.dialect import check_character, check_null
from streamer.http.api.raw_parameters import RawParameter
from streamer.model import Dialect, Order, Timestamps
from streamer.source.catalog.filters import read_order
from streamer.source.catalog.suggestions import no_such
from streamer.source.dataset import Dataset

DEFAULT_DATASET = "users"
CHARACTER_NAMES = {"tab": "\t"}
MAX_LABEL = 100  # characters
CONTROLS = {"Cc", "Cs", "Zl", "Zp"}  # categories of Unicode: control characters, lone surrogates, line separators
DIRECTIONS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # these reverse the text after them
PROFILES = {"excel": {"bom": True, "escape_formulas": True}}
TIMESTAMPS = {form.value: form for form in Timestamps}
ROWS = re.compile(r"[0-9]{1,18}")
DIALECT_FIELDS = {
    "delimiter": "delimiter",
    "quoteChar": "quote",
    "header": "header",
    "null": "null",
    "bom": "bom",
    "escapeFormulas": "escape_formulas",
    "timestamps": "timestamps",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What the allowed values depend on."""

    dataset: Dataset
    max_ttl: timedelta


Reader = Callable[[RawParameter, Scope], Any]
"""Returns the value, or raises BadParameter with a sentence that says what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneralParameter:
    """`allowed`, `default` and `meaning` are Markdown, for the documentation."""

    name: str
    allowed: str
    default: str
    meaning: str
    read: Reader
    of_the_export: bool = False  # it does not affect the rows


def read_values(parameters: Mapping[str, RawParameter], scope: Scope) -> dict[str, Any]:
    """Returns the values of the parameters that are given, by their names. Raises BadParameter."""
    return {name: GENERAL[name].read(parameter, scope) for name, parameter in parameters.items()}


def dialect(values: Mapping[str, Any]) -> Dialect:
    """Returns the dialect: that of the profile, with the parameters that are given. Raises BadParameter."""
    named = {field: values[name] for name, field in DIALECT_FIELDS.items() if name in values}
    found = Dialect(**{**values.get("profile", {}), **named})
    if found.delimiter == found.quote:
        raise BadParameter("delimiter" if "delimiter" in values else "quoteChar", "delimiter and quoteChar must differ")
    try:
        check_null(found.null, found.delimiter, found.quote)
    except ValueError as error:
        raise BadParameter("null", str(error)) from error
    return found


def check_label(text: str) -> str:
    """Returns a label, or a part of one to search for, if it is valid. Raises BadParameter."""
    if not 1 <= len(text) <= MAX_LABEL or not text.strip():
        raise BadParameter("label", f"must be a text of 1 to {MAX_LABEL} characters")
    if DIRECTIONS.search(text) or any(unicodedata.category(character) in CONTROLS for character in text):
        raise BadParameter("label", "must have no control characters and no line breaks")
    return text


def _columns(parameter: RawParameter, scope: Scope) -> tuple[str, ...]:
    names, known = parameter.items(), scope.dataset.columns
    for index, name in enumerate(names):
        if name not in known:
            raise BadParameter("columns", no_such("column", name, known))
        if name in names[:index]:
            raise BadParameter("columns", f"the column {name!r} is given twice")
    return tuple(names)


def _order(parameter: RawParameter, scope: Scope) -> tuple[Order, ...]:
    try:
        order = tuple(read_order(item, scope.dataset.columns) for item in parameter.items())
    except ValueError as error:
        raise BadParameter(parameter.name, str(error)) from error
    if len({term.column for term in order}) < len(order):
        raise BadParameter(parameter.name, "names a column twice")
    return order


def _limit(parameter: RawParameter, scope: Scope) -> int:
    text = parameter.single()
    if not ROWS.fullmatch(text):
        raise BadParameter(parameter.name, f"must be a whole number of rows of at most 18 digits, not '{shown(text)}'")
    return int(text)


def _ttl(parameter: RawParameter, scope: Scope) -> timedelta:
    longest = written_duration(scope.max_ttl)
    allowed = f"a duration such as 90, 60s, 5m or 24h, more than 0 and at most EXPORT_TTL, {longest}"
    try:
        ttl = read_duration(parameter.single())
    except ValueError as error:
        raise BadParameter(parameter.name, f"must be {allowed}") from error
    if not timedelta() < ttl <= scope.max_ttl:
        raise BadParameter(parameter.name, f"must be {allowed}")
    return ttl


def _character(parameter: RawParameter, scope: Scope) -> str:
    text = parameter.single()
    try:
        return check_character(CHARACTER_NAMES.get(text, text))
    except ValueError as error:
        raise BadParameter(parameter.name, str(error)) from error


def _text(parameter: RawParameter, scope: Scope) -> str:
    return parameter.single()


def _boolean(parameter: RawParameter, scope: Scope) -> bool:
    return parameter.boolean()


def _label(parameter: RawParameter, scope: Scope) -> str:
    return check_label(parameter.single())


def _one_of(known: Mapping[str, object]) -> Reader:
    def read(parameter: RawParameter, scope: Scope) -> object:
        if (text := parameter.single()) not in known:
            raise BadParameter(parameter.name, f"must be {one_of(list(known))}, not '{shown(text)}'")
        return known[text]

    return read


_TABLE = (
    GeneralParameter(
        name="columns",
        allowed="names separated by commas, or a JSON list",
        default="all",
        meaning="The columns, in this order.",
        read=_columns,
    ),
    GeneralParameter(
        name="dataset",
        allowed="a name of `GET /datasets`",
        default=f"`{DEFAULT_DATASET}`, otherwise the only one",
        meaning="What to export.",
        read=_text,
    ),
    GeneralParameter(
        name="delimiter",
        allowed="one ASCII character, or `tab`; not that of `quoteChar`",
        default="`,`",
        meaning="The character between two fields.",
        read=_character,
    ),
    GeneralParameter(
        name="quoteChar",
        allowed="one ASCII character",
        default='`"`',
        meaning="The character around a field that must be quoted.",
        read=_character,
    ),
    GeneralParameter(
        name="header",
        allowed="`true`, `false`",
        default="`true`",
        meaning="Whether the first line has the names of the columns.",
        read=_boolean,
    ),
    GeneralParameter(
        name="null",
        allowed="a text",
        default="empty",
        meaning="The text for NULL; a value that equals it is quoted.",
        read=_text,
    ),
    GeneralParameter(
        name="bom",
        allowed="`true`, `false`",
        default="`false`",
        meaning="Whether the file begins with a byte order mark, for spreadsheets.",
        read=_boolean,
    ),
    GeneralParameter(
        name="escapeFormulas",
        allowed="`true`, `false`",
        default="`false`",
        meaning="Whether texts (also names) that begin with `= + - @`, tab, CR or LF get an apostrophe in front;"
        " numbers and dates do not.",
        read=_boolean,
    ),
    GeneralParameter(
        name="profile",
        allowed=", ".join(f"`{name}`" for name in PROFILES),
        default="none",
        meaning="Several options in one: `excel` is `bom=true` and `escapeFormulas=true`.",
        read=_one_of(PROFILES),
    ),
    GeneralParameter(
        name="timestamps",
        allowed=", ".join(f"`{name}`" for name in TIMESTAMPS),
        default=f"`{Timestamps.POSTGRES}`",
        meaning="The form of moments: `2024-12-31 23:59:59+00` or `2024-12-31T23:59:59Z`.",
        read=_one_of(TIMESTAMPS),
    ),
    GeneralParameter(
        name="order_by",
        allowed="columns separated by commas, or a JSON list; `-column` is descending",
        default="that of the dataset",
        meaning="The order of the rows. NULL is larger than everything.",
        read=_order,
    ),
    GeneralParameter(
        name="limit",
        allowed="a number of at most 18 digits",
        default="that of the dataset",
        meaning="The most rows. If it cuts any, the status says `truncated: true`.",
        read=_limit,
    ),
    GeneralParameter(
        name="label",
        allowed=f"a text of 1 to {MAX_LABEL} characters without control characters",
        default="none",
        meaning="A text for people, shown in the status and the list.",
        read=_label,
        of_the_export=True,
    ),
    GeneralParameter(
        name="ttl",
        allowed="a duration such as `2h`, or seconds; at most `EXPORT_TTL`",
        default="`EXPORT_TTL`",
        meaning="How long the file is kept once it is completed.",
        read=_ttl,
        of_the_export=True,
    ),
)
GENERAL = {parameter.name: parameter for parameter in _TABLE}
OF_THE_EXPORT = tuple(parameter.name for parameter in _TABLE if parameter.of_the_export)
