"""Reads the query and the JSON body of a request as an ExportSpec.

Parameters are compared by their keys: the name of a general parameter, or the column and the operator of a condition.
`min_ltv=100`, `lifetime_value__gte=100` and `{"filters": {"lifetime_value_min": 100}}` have the same key. If query and
body have values for the same key, the query wins. A parameter that is not understood is refused with its name: if a
filter were silently dropped, the wrong rows would be exported.

JSON's null means that a general parameter is not given. In a condition it is refused, because a variable that happens
to be empty must not become an export of every row.

A column may have the name of a general parameter. In `filters`, which are conditions, the name is that of the column,
and elsewhere that of the parameter. `label` and `ttl` do not affect which rows are exported, and are likely names of
columns: a condition that was taken for one of them would export every row. So if the dataset has such a column, they
are refused unless the body has `filters`, which shows where its conditions are.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TypeVar
from urllib.parse import quote

from streamer.durations import read_duration, written_duration
from streamer.errors import BadParameter, TooMuch, one_of, shown
from streamer.formats.dialect import check_character, check_null
from streamer.http.api.raw_parameters import RawParameter, read_body_parameters, read_query_parameters
from streamer.model import Condition, Dialect, ExportRequest, ExportSpec, Operator, Order, Timestamps
from streamer.source.catalog.catalog import Catalog
from streamer.source.catalog.filters import OF_SEVERAL, FilterKey, filter_key, read_condition, read_order, unknown_key
from streamer.source.catalog.suggestions import comparison, listed, no_such
from streamer.source.dataset import Dataset

DEFAULT_DATASET = "users"
COLUMN_ALIASES = {"min_ltv": "lifetime_value__gte"}
COMMA_LISTS = {"country_code", "subscription_tier"}  # columns whose values have no commas, so that they may be lists
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
OF_THE_EXPORT = ("label", "ttl")  # these do not affect its rows
MAX_LABEL = 100  # characters
CONTROLS = {"Cc", "Cs", "Zl", "Zp"}  # categories of Unicode: control characters, lone surrogates, line separators
DIRECTIONS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # these reverse the text after them
NARROWING = set(Operator) - {Operator.NE, Operator.ISNULL}  # operators of a required condition
PROFILES = {"excel": {"bom": True, "escape_formulas": True}}
MAX_SPEC = 256 * 1024  # bytes of an export's columns and values as they are stored
ROWS = re.compile(r"[0-9]{1,18}")

ParameterKey = str | FilterKey
"""The name of a general parameter, or the column and the operator of a condition."""

T = TypeVar("T")


class Parameters:
    """The parameters of a request, from its query and its body. All methods raise BadParameter."""

    def __init__(self, query: Iterable[tuple[str, str]], body: bytes | bytearray) -> None:
        """Raises BadBody and TooMuch, too."""
        self._of_query, self._of_body = read_query_parameters(query), read_body_parameters(body, GENERAL)

    def dataset(self, catalog: Catalog) -> Dataset:
        parameter = self._of_query.get("dataset") or self._of_body.get("dataset")
        return _dataset(None if parameter and parameter.is_null else parameter, catalog)

    def request(self, dataset: Dataset, *, max_ttl: timedelta) -> ExportRequest:
        """Returns the export to create. Raises TooMuch, too."""
        parameters = self._by_key(dataset)
        return ExportRequest(
            spec=self.spec(dataset), label=_label(parameters.get("label")), ttl=_ttl(parameters.get("ttl"), max_ttl)
        )

    def spec(self, dataset: Dataset) -> ExportSpec:
        """Returns the rows to export and their form. Raises TooMuch, too."""
        parameters = self._by_key(dataset)
        conditions = {key: parameter for key, parameter in parameters.items() if isinstance(key, tuple)}
        general = {key: parameter for key, parameter in parameters.items() if isinstance(key, str)}
        _check_required(conditions, dataset)
        spec = ExportSpec(
            dataset=dataset.name,
            columns=_columns(general.get("columns"), dataset),
            conditions=tuple(_condition(dataset, key, parameter) for key, parameter in conditions.items()),
            order=_order(general.get("order_by"), dataset),
            limit=_limit(general.get("limit")),
            dialect=_dialect(general),
        )
        if (size := len(spec.to_json().encode())) > MAX_SPEC:
            raise TooMuch(f"its columns and values take {size} bytes when they are stored; at most {MAX_SPEC} may be")
        return spec

    def _by_key(self, dataset: Dataset) -> dict[ParameterKey, RawParameter]:
        return {**_by_key(self._of_body, dataset), **_by_key(self._of_query, dataset)}


def _dataset(parameter: RawParameter | None, catalog: Catalog) -> Dataset:
    name = parameter.single() if parameter else next(iter(catalog)) if len(catalog) == 1 else DEFAULT_DATASET
    if name not in catalog:
        sentence = no_such("dataset", name, catalog) if parameter else f"must be given: {listed(catalog)}"
        raise BadParameter("dataset", sentence)
    return catalog[name]


def _by_key(parameters: Mapping[str, RawParameter], dataset: Dataset) -> dict[ParameterKey, RawParameter]:
    """Returns the parameters that are given, by their keys."""
    by_key: dict[ParameterKey, RawParameter] = {}
    for name, parameter in parameters.items():
        key = _key(parameter, dataset)
        if isinstance(key, str) and parameter.is_null:
            continue
        if key in by_key:
            raise BadParameter(name, f"means the same as {by_key[key].name}, which is given too")
        if parameter.has_null:
            raise BadParameter(name, _no_null(key))
        by_key[key] = parameter
    return by_key


def _key(parameter: RawParameter, dataset: Dataset) -> ParameterKey:
    """A column with the name of a general parameter is written in `filters`, or as `<column>__in`."""
    name = parameter.name
    if name in OF_THE_EXPORT and name in dataset.columns and not (parameter.in_filters or parameter.beside_filters):
        raise BadParameter(
            name,
            f"is a column of {dataset.name}, too; {name}__in asks for rows by it, and a JSON body with its conditions"
            f" in filters, and {name} beside it, sets that of the export",
        )
    if name in GENERAL and not (parameter.in_filters and name in dataset.columns):
        return name
    if key := filter_key(COLUMN_ALIASES.get(name, name), dataset.columns):
        return key
    meant = unknown_key(name, parameter.written, dataset.columns, GENERAL)
    allowed = (
        f"{', '.join(GENERAL)} and the columns, {listed(dataset.columns, 10)}, also with an operator such as __gte"
    )
    sentence = meant or f"unknown parameter; allowed are {allowed}"
    raise BadParameter(name, f"{sentence} (see /datasets/{quote(dataset.name, safe='')})")


def _no_null(key: ParameterKey) -> str:
    if isinstance(key, str):
        return "must not have null in it"
    return f"must not be null or have null in it; {key[0]}__isnull=true asks for the rows where it is NULL"


def _check_required(conditions: Mapping[FilterKey, RawParameter], dataset: Dataset) -> None:
    narrowed = {column for column, operator in conditions if operator in NARROWING}
    for column in dataset.required:
        if column not in narrowed:
            raise BadParameter(column, f"{dataset.name} is exported only with a condition on it")


def _columns(parameter: RawParameter | None, dataset: Dataset) -> tuple[str, ...]:
    if parameter is None:
        return tuple(dataset.columns)
    names = parameter.items()
    for index, name in enumerate(names):
        if name not in dataset.columns:
            raise BadParameter("columns", no_such("column", name, dataset.columns))
        if name in names[:index]:
            raise BadParameter("columns", f"the column {name!r} is given twice")
    return tuple(names)


def _condition(dataset: Dataset, key: FilterKey, parameter: RawParameter) -> Condition:
    name, operator = key
    is_list = parameter.is_list or name in COMMA_LISTS or (operator is Operator.EQ and parameter.name != name)
    if operator not in OF_SEVERAL:
        texts = [parameter.single()]
    else:
        texts = parameter.items() if is_list else list(parameter.values)
    try:
        return read_condition(dataset.columns[name], operator, texts)
    except ValueError as error:
        meant = comparison(parameter.written, dataset.columns)  # a query such as ltv==500 or ltv=>500
        raise BadParameter(parameter.name, f"{error}; write {meant}" if meant else str(error)) from error


def _order(parameter: RawParameter | None, dataset: Dataset) -> tuple[Order, ...]:
    if parameter is None:
        return ()
    try:
        order = tuple(read_order(item, dataset.columns) for item in parameter.items())
    except ValueError as error:
        raise BadParameter(parameter.name, str(error)) from error
    if len({term.column for term in order}) < len(order):
        raise BadParameter(parameter.name, "names a column twice")
    return order


def _limit(parameter: RawParameter | None) -> int | None:
    if parameter is None:
        return None
    text = parameter.single()
    if not ROWS.fullmatch(text):
        raise BadParameter(parameter.name, f"must be a whole number of rows of at most 18 digits, not '{shown(text)}'")
    return int(text)


def _label(parameter: RawParameter | None) -> str | None:
    return None if parameter is None else check_label(parameter.single())


def check_label(text: str) -> str:
    """Returns a label, or a part of one to search for, if it is valid. Raises BadParameter."""
    if not 1 <= len(text) <= MAX_LABEL or not text.strip():
        raise BadParameter("label", f"must be a text of 1 to {MAX_LABEL} characters")
    if DIRECTIONS.search(text) or any(unicodedata.category(character) in CONTROLS for character in text):
        raise BadParameter("label", "must have no control characters and no line breaks")
    return text


def _ttl(parameter: RawParameter | None, max_ttl: timedelta) -> timedelta | None:
    if parameter is None:
        return None
    allowed = f"a duration such as 90, 60s, 5m or 24h, more than 0 and at most EXPORT_TTL, {written_duration(max_ttl)}"
    try:
        ttl = read_duration(parameter.single())
    except ValueError as error:
        raise BadParameter(parameter.name, f"must be {allowed}") from error
    if not timedelta() < ttl <= max_ttl:
        raise BadParameter(parameter.name, f"must be {allowed}")
    return ttl


def _dialect(parameters: Mapping[str, RawParameter]) -> Dialect:
    """Returns the dialect: that of the profile, with the parameters that are given."""
    default, switches = Dialect(), _switches(parameters)
    delimiter, quote = parameters.get("delimiter"), parameters.get("quoteChar")
    dialect = Dialect(
        delimiter=_character(delimiter, default.delimiter),
        quote=_character(quote, default.quote),
        null=parameters["null"].single() if "null" in parameters else default.null,
        timestamps=_one_of(parameters.get("timestamps"), {form.value: form for form in Timestamps}, default.timestamps),
        **switches,
    )
    if dialect.delimiter == dialect.quote:
        raise BadParameter("delimiter" if delimiter else "quoteChar", "delimiter and quoteChar must differ")
    try:
        check_null(dialect.null, dialect.delimiter, dialect.quote)
    except ValueError as error:
        raise BadParameter("null", str(error)) from error
    return dialect


def _switches(parameters: Mapping[str, RawParameter]) -> dict[str, bool]:
    profile = _one_of(parameters.get("profile"), PROFILES, {})
    named = {
        field: parameters[name].boolean()
        for name, field in (("header", "header"), ("bom", "bom"), ("escapeFormulas", "escape_formulas"))
        if name in parameters
    }
    return {**profile, **named}


def _one_of(parameter: RawParameter | None, known: Mapping[str, T], default: T) -> T:
    if parameter is None:
        return default
    if (text := parameter.single()) not in known:
        raise BadParameter(parameter.name, f"must be {one_of(list(known))}, not '{shown(text)}'")
    return known[text]


def _character(parameter: RawParameter | None, default: str) -> str:
    if parameter is None:
        return default
    text = parameter.single()
    try:
        return check_character(CHARACTER_NAMES.get(text, text))
    except ValueError as error:
        raise BadParameter(parameter.name, str(error)) from error
