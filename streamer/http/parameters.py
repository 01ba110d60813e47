"""What a client may ask for: query string and JSON body → ExportSpec.

Both are brought to one form, a list of texts under each name, and then to one meaning: `min_ltv=100`,
`lifetime_value__gte=100` and `{"filters": {"lifetime_value_min": 100}}` are the same condition. Where query and body
say different things of the same, the query wins. Whatever is not understood is refused by its name: a filter that is
silently dropped exports the wrong rows.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from streamer.errors import BadBody, BadParameter, shown
from streamer.model import Condition, Dialect, ExportSpec, Operator
from streamer.protocol.dialect import check_character
from streamer.source.catalog import Catalog, Column, Dataset
from streamer.source.values import is_date, read_value

DEFAULT_DATASET = "users"
COLUMN_ALIASES = {"min_ltv": "lifetime_value__gte"}
COMMA_LISTS = {"country_code", "subscription_tier"}  # these split at commas: none of their values holds one
SUFFIXES = {
    "__gte": Operator.GTE,
    "__gt": Operator.GT,
    "__lte": Operator.LTE,
    "__lt": Operator.LT,
    "_min": Operator.GTE,
    "_from": Operator.GTE,
    "_max": Operator.LTE,
    "_to": Operator.LTE,
}
MOMENTS = {"timestamp", "timestamptz"}
CHARACTER_NAMES = {"tab": "\t"}
GENERAL = ("columns", "dataset", "delimiter", "quoteChar")


@dataclass(frozen=True, slots=True)
class Given:
    """A parameter as the client wrote it; its name is repeated in every complaint."""

    name: str
    values: tuple[str, ...]
    listed: bool  # as a JSON list, whose items are not split at commas

    def one(self) -> str:
        if self.listed:
            raise BadParameter(self.name, "must be one value, not a list")
        if len(self.values) != 1:
            raise BadParameter(self.name, f"must be given once, not {len(self.values)} times")
        return self.values[0]

    def many(self) -> list[str]:
        """The items of a comma-separated or a JSON list."""
        items = self.values if self.listed else [item.strip() for text in self.values for item in text.split(",")]
        if not items or not all(items):
            raise BadParameter(self.name, "must not be empty or have an empty item")
        return list(items)


def read_spec(query: Iterable[tuple[str, str]], body: bytes, catalog: Catalog) -> ExportSpec:
    """The export that a request asks for. Raises BadParameter and BadBody."""
    from_query, from_body = _of_query(query), _of_body(body)
    dataset = _dataset(from_query.get("dataset") or from_body.get("dataset"), catalog)
    asked = {**_by_meaning(from_body, dataset), **_by_meaning(from_query, dataset)}
    return ExportSpec(
        dataset=dataset.name,
        columns=_columns(asked.get("columns"), dataset),
        conditions=tuple(
            _condition(dataset.columns[meaning[0]], meaning[1], given)
            for meaning, given in asked.items()
            if isinstance(meaning, tuple)
        ),
        dialect=_dialect(asked.get("delimiter"), asked.get("quoteChar")),
    )


def _of_query(query: Iterable[tuple[str, str]]) -> dict[str, Given]:
    texts: dict[str, list[str]] = {}
    for name, text in query:
        texts.setdefault(name, []).append(text)
    return {name: Given(name, tuple(found), listed=False) for name, found in texts.items()}


def _of_body(body: bytes) -> dict[str, Given]:
    if not body.strip():
        return {}
    members = _given(_json_object(body))
    filters = members.pop("filters", {})
    if not isinstance(filters, dict):
        raise BadParameter("filters", "must be a JSON object")
    filters = _given(filters)
    if repeated := members.keys() & filters.keys():
        raise BadParameter(min(repeated), "is given both in filters and beside it")
    every = {**members, **filters}
    return {name: _of_member(name, value) for name, value in every.items()}


def _given(members: dict[str, Any]) -> dict[str, Any]:
    """null is as good as nothing."""
    return {name: value for name, value in members.items() if value is not None}


def _json_object(body: bytes) -> dict[str, Any]:
    """Numbers stay the text they are, so that nothing is rounded before its column's type reads it."""
    try:
        found = json.loads(
            body.decode(), parse_int=str, parse_float=str, parse_constant=_refuse, object_pairs_hook=_distinct
        )
    except (ValueError, RecursionError) as error:
        raise BadBody(f"the body must be a JSON object in UTF-8: {error}") from error
    if not isinstance(found, dict):
        raise BadBody("the body must be a JSON object")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name is given twice in one object")
    return members


def _of_member(name: str, value: Any) -> Given:
    if isinstance(value, list):
        return Given(name, tuple(_scalar(name, item) for item in value), listed=True)
    return Given(name, (_scalar(name, value),), listed=False)


def _scalar(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    raise BadParameter(name, "must be a text, a number, true or false, or a list of these")


def _dataset(given: Given | None, catalog: Catalog) -> Dataset:
    name = given.one() if given else DEFAULT_DATASET
    if name not in catalog:
        raise BadParameter("dataset", f"there is no dataset '{shown(name)}'; allowed are {', '.join(catalog)}")
    return catalog[name]


Meaning = str | tuple[str, Operator]
"""A general parameter by its name, or a condition by its column and operator."""


def _by_meaning(given: Mapping[str, Given], dataset: Dataset) -> dict[Meaning, Given]:
    found: dict[Meaning, Given] = {}
    for name, parameter in given.items():
        meaning = _meaning(name, dataset)
        if meaning in found:
            raise BadParameter(name, f"means the same as {found[meaning].name}, which is given too")
        found[meaning] = parameter
    return found


def _meaning(name: str, dataset: Dataset) -> Meaning:
    if name in GENERAL:
        return name
    plain = COLUMN_ALIASES.get(name, name)
    if plain in dataset.columns:
        return plain, Operator.EQ
    for suffix, operator in SUFFIXES.items():
        if plain.endswith(suffix) and plain.removesuffix(suffix) in dataset.columns:
            return plain.removesuffix(suffix), operator
    raise BadParameter(
        name,
        f"unknown parameter; allowed are {', '.join(GENERAL)} and the columns of {dataset.name}: "
        f"{', '.join(dataset.columns)}, each also with __gte, __gt, __lte or __lt behind it",
    )


def _columns(given: Given | None, dataset: Dataset) -> tuple[str, ...]:
    if given is None:
        return tuple(dataset.columns)
    names = given.many()
    for place, name in enumerate(names):
        if name not in dataset.columns:
            raise BadParameter(
                "columns", f"there is no column '{shown(name)}'; allowed are {', '.join(dataset.columns)}"
            )
        if name in names[:place]:
            raise BadParameter("columns", f"the column {name!r} is given twice")
    return tuple(names)


def _condition(column: Column, operator: Operator, given: Given) -> Condition:
    if operator is Operator.EQ:
        texts = given.many() if column.name in COMMA_LISTS or given.listed else list(given.values)
        values = tuple(_value(column, text, given) for text in texts)
        return Condition(column=column.name, operator=operator, values=values)
    text = given.one()
    value = _value(column, text, given)
    if operator is Operator.LTE and column.type in MOMENTS and is_date(text):
        return _through(column, text, given)
    return Condition(column=column.name, operator=operator, values=(value,))


def _value(column: Column, text: str, given: Given) -> str:
    try:
        return read_value(column, text)
    except ValueError as error:
        raise BadParameter(given.name, str(error)) from error


def _through(column: Column, day: str, given: Given) -> Condition:
    """Up to a day means to the end of that day."""
    try:
        morrow = (date.fromisoformat(day) + timedelta(days=1)).isoformat()
    except OverflowError:
        raise BadParameter(given.name, "must be a day before 9999-12-31") from None
    return Condition(column=column.name, operator=Operator.LT, values=(_value(column, morrow, given),))


def _dialect(delimiter: Given | None, quote: Given | None) -> Dialect:
    default = Dialect()
    dialect = Dialect(
        delimiter=_character(delimiter, default.delimiter),
        quote=_character(quote, default.quote),
    )
    if dialect.delimiter == dialect.quote:
        raise BadParameter("delimiter" if delimiter else "quoteChar", "delimiter and quoteChar must differ")
    return dialect


def _character(given: Given | None, default: str) -> str:
    if given is None:
        return default
    text = given.one()
    try:
        return check_character(CHARACTER_NAMES.get(text, text))
    except ValueError as error:
        raise BadParameter(given.name, str(error)) from error
