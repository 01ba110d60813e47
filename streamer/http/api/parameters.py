"""What a client may ask for: query string and JSON body → ExportSpec.

Both are brought to one form, a list of texts under each name, and then to one meaning: `min_ltv=100`,
`lifetime_value__gte=100` and `{"filters": {"lifetime_value_min": 100}}` are the same condition. Where query and body
say different things of the same, the query wins. Whatever is not understood is refused by its name: a filter that is
silently dropped exports the wrong rows.

JSON's null is "not given" for a general parameter. For a condition it is refused, because a variable that happens to be
empty must not become an export of every row.

A column may have the name of a general parameter. In `filters`, which are conditions, the name is the column's, and
elsewhere the parameter's. `label` and `ttl` do not say which rows are exported, and are likely names of columns: a
condition that was taken for one of them would export every row. So where the dataset has such a column, they are
refused unless the body has `filters`, which shows where its conditions are.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from streamer.durations import read_duration, written_duration
from streamer.errors import BadBody, BadParameter, TooMuch, shown
from streamer.formats.dialect import check_character, check_null
from streamer.model import Condition, Dialect, ExportRequest, ExportSpec, Operator, Order, Timestamps
from streamer.source.catalog.catalog import Catalog
from streamer.source.catalog.filters import OF_SEVERAL, FilterKey, filter_key, listed, read_condition, read_order
from streamer.source.catalog.values import parse_bool
from streamer.source.dataset import Dataset

DEFAULT_DATASET = "users"
COLUMN_ALIASES = {"min_ltv": "lifetime_value__gte"}
COMMA_LISTS = {"country_code", "subscription_tier"}  # these split at commas: none of their values holds one
CHARACTER_NAMES = {"tab": "\t"}
GENERAL = (
    "columns",
    "dataset",
    "delimiter",
    "quoteChar",
    "header",
    "null",
    "bom",
    "escapeFormulas",
    "profile",
    "timestamps",
    "order_by",
    "limit",
    "label",
    "ttl",
)
OF_THE_EXPORT = ("label", "ttl")  # these say nothing of its rows
LONGEST_LABEL = 100  # characters
CONTROLS = {"Cc", "Cs", "Zl", "Zp"}  # categories of Unicode: control characters, lone surrogates, line separators
DIRECTIONS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # these have what follows read backwards
NARROWING = set(Operator) - {Operator.NE, Operator.ISNULL}  # what a required condition may be
PROFILES = {"excel": {"bom": True, "escape_formulas": True}}
MOST_ITEMS = 10_000  # that commas separate in a body: members, columns and values together
MOST_SPEC = 256 * 1024  # bytes of an export's columns and values as they are stored
ROWS = re.compile(r"[0-9]{1,18}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RawParameter:
    """A parameter as the client wrote it; its name is repeated in every complaint."""

    name: str
    values: tuple[str, ...]
    listed: bool  # as a JSON list, whose items are not split at commas
    null: bool = False  # whether JSON's null was the value or an item; it is not in `values`
    in_filters: bool = False  # as a member of `filters`
    beside_filters: bool = False  # in a body that has `filters`

    @property
    def absent(self) -> bool:
        """Whether it is JSON's null, which is not given where the parameter is a general one."""
        return self.null and not self.listed

    def single(self) -> str:
        if self.listed:
            raise BadParameter(self.name, "must be one value, not a list")
        if len(self.values) != 1:
            raise BadParameter(self.name, f"must be given once, not {len(self.values)} times")
        return self.values[0]

    def items(self) -> list[str]:
        """The items of a comma-separated or a JSON list."""
        items = self.values if self.listed else [item.strip() for text in self.values for item in text.split(",")]
        if not items or not all(items):
            raise BadParameter(self.name, "must not be empty or have an empty item")
        return list(items)

    def boolean(self) -> bool:
        try:
            return parse_bool(self.single().lower()) == "true"
        except ValueError as error:
            raise BadParameter(self.name, str(error)) from error


class Parameters:
    """The parameters of a request, from its query and its body. Every method raises BadParameter."""

    def __init__(self, query: Iterable[tuple[str, str]], body: bytes | bytearray) -> None:
        """Raises BadBody and TooMuch, too."""
        self._of_query, self._of_body = _of_query(query), _of_body(body)

    def dataset(self, catalog: Catalog) -> Dataset:
        given = self._of_query.get("dataset") or self._of_body.get("dataset")
        return _dataset(None if given and given.absent else given, catalog)

    def request(self, dataset: Dataset, *, longest: timedelta) -> ExportRequest:
        """The export that is asked for, whose file may stay as long as `longest`."""
        asked = self._by_meaning(dataset)
        return ExportRequest(
            spec=self.spec(dataset), label=_label(asked.get("label")), ttl=_ttl(asked.get("ttl"), longest)
        )

    def spec(self, dataset: Dataset) -> ExportSpec:
        """Its rows. Raises TooMuch."""
        asked = self._by_meaning(dataset)
        conditions = {meaning: given for meaning, given in asked.items() if isinstance(meaning, tuple)}
        general = {meaning: given for meaning, given in asked.items() if isinstance(meaning, str)}
        _check_required(conditions, dataset)
        spec = ExportSpec(
            dataset=dataset.name,
            columns=_columns(general.get("columns"), dataset),
            conditions=tuple(_condition(dataset, meaning, given) for meaning, given in conditions.items()),
            order=_order(general.get("order_by"), dataset),
            limit=_limit(general.get("limit")),
            dialect=_dialect(general),
        )
        if (size := len(spec.to_json().encode())) > MOST_SPEC:
            raise TooMuch(f"its columns and values take {size} bytes when they are stored; at most {MOST_SPEC} may be")
        return spec

    def _by_meaning(self, dataset: Dataset) -> dict[str | FilterKey, RawParameter]:
        return {**_by_meaning(self._of_body, dataset), **_by_meaning(self._of_query, dataset)}


def _of_query(query: Iterable[tuple[str, str]]) -> dict[str, RawParameter]:
    texts: dict[str, list[str]] = {}
    for name, text in query:
        texts.setdefault(name, []).append(text)
    return {name: RawParameter(name, tuple(found), listed=False) for name, found in texts.items()}


def _of_body(body: bytes | bytearray) -> dict[str, RawParameter]:
    if not body.strip():
        return {}
    if body.count(b",") > MOST_ITEMS:
        raise TooMuch(f"the body has more than {MOST_ITEMS} commas, and so more values than a request may have")
    members = _json_object(body)
    filters = members.pop("filters", None)
    if not isinstance(filters, dict | None):
        raise BadParameter("filters", "must be a JSON object")
    beside_filters = filters is not None
    found = {name: _of_member(name, value, beside_filters=beside_filters) for name, value in members.items()}
    for name, value in (filters or {}).items():
        beside = found.get(name)
        if beside and not (beside.absent and name in GENERAL):
            raise BadParameter(name, "is given both in filters and beside it")
        found[name] = _of_member(name, value, in_filters=True)
    return found


def _json_object(body: bytes | bytearray) -> dict[str, Any]:
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


def _of_member(name: str, value: Any, *, in_filters: bool = False, beside_filters: bool = False) -> RawParameter:
    items = value if isinstance(value, list) else [value]
    texts = tuple(_scalar(name, item) for item in items if item is not None)
    return RawParameter(
        name,
        texts,
        listed=isinstance(value, list),
        null=len(texts) < len(items),
        in_filters=in_filters,
        beside_filters=beside_filters,
    )


def _scalar(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    raise BadParameter(name, "must be a text, a number, true or false, or a list of these")


def _dataset(given: RawParameter | None, catalog: Catalog) -> Dataset:
    name = given.single() if given else DEFAULT_DATASET
    if name not in catalog:
        raise BadParameter("dataset", f"there is no dataset '{shown(name)}'; allowed are {listed(catalog)}")
    return catalog[name]


def _by_meaning(given: Mapping[str, RawParameter], dataset: Dataset) -> dict[str | FilterKey, RawParameter]:
    """By the name of a general parameter, or by the column and the operator of a condition."""
    found: dict[str | FilterKey, RawParameter] = {}
    for name, parameter in given.items():
        meaning = _meaning(parameter, dataset)
        if isinstance(meaning, str) and parameter.absent:
            continue
        if meaning in found:
            raise BadParameter(name, f"means the same as {found[meaning].name}, which is given too")
        if parameter.null:
            raise BadParameter(name, _instead_of_null(meaning))
        found[meaning] = parameter
    return found


def _meaning(given: RawParameter, dataset: Dataset) -> str | FilterKey:
    """A column that is called as a general parameter can be asked for in `filters`, or as `<column>__in`."""
    name = given.name
    if name in OF_THE_EXPORT and name in dataset.columns and not (given.in_filters or given.beside_filters):
        raise BadParameter(
            name,
            f"is a column of {dataset.name}, too; {name}__in asks for rows by it, and a JSON body with its conditions"
            f" in filters, and {name} beside it, sets that of the export",
        )
    if name in GENERAL and not (given.in_filters and name in dataset.columns):
        return name
    if meaning := filter_key(COLUMN_ALIASES.get(name, name), dataset.columns):
        return meaning
    raise BadParameter(
        name,
        f"unknown parameter; allowed are {', '.join(GENERAL)} and the columns of {dataset.name}: "
        f"{listed(dataset.columns)}, each also with an operator such as __gte behind it",
    )


def _instead_of_null(meaning: str | FilterKey) -> str:
    if isinstance(meaning, str):
        return "must not have null in it"
    return f"must not be null or have null in it; {meaning[0]}__isnull=true asks for the rows where it is NULL"


def _check_required(conditions: Mapping[FilterKey, RawParameter], dataset: Dataset) -> None:
    named = {column for column, operator in conditions if operator in NARROWING}
    for column in dataset.required:
        if column not in named:
            raise BadParameter(column, f"{dataset.name} is exported only with a condition on it")


def _columns(given: RawParameter | None, dataset: Dataset) -> tuple[str, ...]:
    if given is None:
        return tuple(dataset.columns)
    names = given.items()
    for place, name in enumerate(names):
        if name not in dataset.columns:
            raise BadParameter("columns", f"there is no column '{shown(name)}'; allowed are {listed(dataset.columns)}")
        if name in names[:place]:
            raise BadParameter("columns", f"the column {name!r} is given twice")
    return tuple(names)


def _condition(dataset: Dataset, meaning: FilterKey, given: RawParameter) -> Condition:
    name, operator = meaning
    splits = given.listed or name in COMMA_LISTS or (operator is Operator.EQ and given.name != name)
    several = given.items if splits else lambda: list(given.values)
    texts = several() if operator in OF_SEVERAL else [given.single()]
    try:
        return read_condition(dataset.columns[name], operator, texts)
    except ValueError as error:
        raise BadParameter(given.name, str(error)) from error


def _order(given: RawParameter | None, dataset: Dataset) -> tuple[Order, ...]:
    if given is None:
        return ()
    try:
        order = tuple(read_order(item, dataset.columns) for item in given.items())
    except ValueError as error:
        raise BadParameter(given.name, str(error)) from error
    if len({by.column for by in order}) < len(order):
        raise BadParameter(given.name, "names a column twice")
    return order


def _limit(given: RawParameter | None) -> int | None:
    if given is None:
        return None
    text = given.single()
    if not ROWS.fullmatch(text):
        raise BadParameter(given.name, f"must be a whole number of rows of at most 18 digits, not '{shown(text)}'")
    return int(text)


def _label(given: RawParameter | None) -> str | None:
    return None if given is None else check_label(given.single())


def check_label(text: str) -> str:
    """A label, or a part of one that is searched for. Raises BadParameter."""
    if not 1 <= len(text) <= LONGEST_LABEL or not text.strip():
        raise BadParameter("label", f"must be a text of 1 to {LONGEST_LABEL} characters")
    if DIRECTIONS.search(text) or any(unicodedata.category(character) in CONTROLS for character in text):
        raise BadParameter("label", "must have no control characters and no line breaks")
    return text


def _ttl(given: RawParameter | None, longest: timedelta) -> timedelta | None:
    if given is None:
        return None
    allowed = f"a duration such as 90, 60s, 5m or 24h, more than 0 and at most EXPORT_TTL, {written_duration(longest)}"
    try:
        ttl = read_duration(given.single())
    except ValueError as error:
        raise BadParameter(given.name, f"must be {allowed}") from error
    if not timedelta() < ttl <= longest:
        raise BadParameter(given.name, f"must be {allowed}")
    return ttl


def _dialect(given: Mapping[str, RawParameter]) -> Dialect:
    """What is said by name goes before what a profile says."""
    default = Dialect()
    profile = _one_of(given.get("profile"), PROFILES, {})
    truths = {
        field: given[name].boolean()
        for name, field in (("header", "header"), ("bom", "bom"), ("escapeFormulas", "escape_formulas"))
        if name in given
    }
    delimiter, quote = given.get("delimiter"), given.get("quoteChar")
    dialect = Dialect(
        delimiter=_character(delimiter, default.delimiter),
        quote=_character(quote, default.quote),
        null=given["null"].single() if "null" in given else default.null,
        timestamps=_one_of(given.get("timestamps"), {each.value: each for each in Timestamps}, default.timestamps),
        **{**profile, **truths},
    )
    if dialect.delimiter == dialect.quote:
        raise BadParameter("delimiter" if delimiter else "quoteChar", "delimiter and quoteChar must differ")
    try:
        check_null(dialect.null, dialect.delimiter, dialect.quote)
    except ValueError as error:
        raise BadParameter("null", str(error)) from error
    return dialect


def _one_of(given: RawParameter | None, known: Mapping[str, T], default: T) -> T:
    if given is None:
        return default
    if (text := given.single()) not in known:
        raise BadParameter(given.name, f"must be {' or '.join(known)}, not '{shown(text)}'")
    return known[text]


def _character(given: RawParameter | None, default: str) -> str:
    if given is None:
        return default
    text = given.single()
    try:
        return check_character(CHARACTER_NAMES.get(text, text))
    except ValueError as error:
        raise BadParameter(given.name, str(error)) from error
