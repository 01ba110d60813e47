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

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from streamer.errors import BadParameter, TooMuch
from streamer.http.api.general import DEFAULT_DATASET, GENERAL, OF_THE_EXPORT, Scope, dialect, read_values
from streamer.http.api.raw_parameters import RawParameter, read_body_parameters, read_query_parameters
from streamer.model import Condition, ExportRequest, ExportSpec, Operator
from streamer.source.catalog.catalog import Catalog
from streamer.source.catalog.filters import OF_SEVERAL, FilterKey, filter_key, read_condition, unknown_key
from streamer.source.catalog.suggestions import comparison, listed, no_such
from streamer.source.dataset import Dataset

COLUMN_ALIASES = {"min_ltv": "lifetime_value__gte"}
COMMA_LISTS = {"country_code", "subscription_tier"}  # columns whose values have no commas, so that they may be lists
NARROWING = set(Operator) - {Operator.NE, Operator.ISNULL}  # operators of a required condition
MAX_SPEC = 256 * 1024  # bytes of an export's columns and values as they are stored

ParameterKey = str | FilterKey
"""The name of a general parameter, or the column and the operator of a condition."""


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
        conditions, general = self._split(dataset)
        values = read_values(general, Scope(dataset=dataset, max_ttl=max_ttl))
        return ExportRequest(spec=_spec(dataset, conditions, values), label=values.get("label"), ttl=values.get("ttl"))

    def _split(self, dataset: Dataset) -> tuple[dict[FilterKey, RawParameter], dict[str, RawParameter]]:
        """Returns the conditions and the general parameters that are given."""
        parameters = self._by_key(dataset)
        conditions = {key: parameter for key, parameter in parameters.items() if isinstance(key, tuple)}
        return conditions, {key: parameter for key, parameter in parameters.items() if isinstance(key, str)}

    def _by_key(self, dataset: Dataset) -> dict[ParameterKey, RawParameter]:
        return {**_by_key(self._of_body, dataset), **_by_key(self._of_query, dataset)}


def _spec(dataset: Dataset, conditions: Mapping[FilterKey, RawParameter], values: Mapping[str, Any]) -> ExportSpec:
    _check_required(conditions, dataset)
    spec = ExportSpec(
        dataset=dataset.name,
        columns=values.get("columns", tuple(dataset.columns)),
        conditions=tuple(_condition(dataset, key, parameter) for key, parameter in conditions.items()),
        order=values.get("order_by", ()),
        limit=values.get("limit"),
        dialect=dialect(values),
    )
    if (size := len(spec.to_json().encode())) > MAX_SPEC:
        raise TooMuch(f"the columns and values take {size} bytes when they are stored; at most {MAX_SPEC} are allowed")
    return spec


def _dataset(parameter: RawParameter | None, catalog: Catalog) -> Dataset:
    name = parameter.single() if parameter else _default_dataset(catalog)
    if name not in catalog:
        raise BadParameter("dataset", no_such("dataset", name, catalog))
    return catalog[name]


def _default_dataset(catalog: Catalog) -> str:
    """Returns `users` if it exists, otherwise the only dataset."""
    if DEFAULT_DATASET in catalog:
        return DEFAULT_DATASET
    if len(catalog) == 1:
        return next(iter(catalog))
    raise BadParameter("dataset", f"must be given, because there are several; allowed are {listed(catalog)}")


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
