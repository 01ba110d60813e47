"""Reads the parameters of a query and of a JSON body into one form: a list of texts under each name."""

import json
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from streamer.errors import BadBody, BadParameter, TooMuch
from streamer.source.catalog.values import parse_bool

FORM = re.compile(rb"--[^\r\n]+\r?\n|[\w.%+-]+=")  # as multipart/form-data, and as application/x-www-form-urlencoded
SEND = 'send JSON such as {"country_code": "US"}, or use query parameters'
MAX_COMMAS = 10_000  # in a body: they separate its members, columns and values


@dataclass(frozen=True, slots=True)
class RawParameter:
    """A parameter as the client wrote it. All methods raise BadParameter with its name."""

    name: str
    values: tuple[str, ...]
    is_list: bool  # a JSON list, whose items are not split at commas
    has_null: bool = False  # JSON's null was the value or an item; it is not in `values`
    in_filters: bool = False  # a member of `filters`
    beside_filters: bool = False  # a member of a body that has `filters`
    in_body: bool = False

    @property
    def written(self) -> str:
        """The name with its first value, as the client may have written them: a query is split at its first `=`."""
        value = self.values[0] if self.values else ""
        return f"{self.name} {value}" if self.in_body else f"{self.name}={value}" if value else self.name

    @property
    def is_null(self) -> bool:
        """Whether it is JSON's null, with which a general parameter is not given."""
        return self.has_null and not self.is_list

    def single(self) -> str:
        if self.is_list:
            raise BadParameter(self.name, "must be one value, not a list")
        if len(self.values) != 1:
            raise BadParameter(self.name, f"must be given once, not {len(self.values)} times")
        return self.values[0]

    def items(self) -> list[str]:
        """Returns the items of a comma-separated or a JSON list."""
        items = self.values if self.is_list else [item.strip() for text in self.values for item in text.split(",")]
        if not items or not all(items):
            raise BadParameter(self.name, "must not be empty or have an empty item")
        return list(items)

    def boolean(self) -> bool:
        try:
            return parse_bool(self.single().lower()) == "true"
        except ValueError as error:
            raise BadParameter(self.name, str(error)) from error


def read_query_parameters(query: Iterable[tuple[str, str]]) -> dict[str, RawParameter]:
    values: dict[str, list[str]] = {}
    for name, value in query:
        values.setdefault(name, []).append(value)
    return {name: RawParameter(name, tuple(texts), is_list=False) for name, texts in values.items()}


def read_body_parameters(body: bytes | bytearray, general: Container[str]) -> dict[str, RawParameter]:
    """Reads the members of a JSON object, and those of its member `filters`.

    `general` are the names of parameters that are not given if they are null. Raises BadBody, BadParameter and TooMuch.
    """
    if not body.strip():
        return {}
    if body.count(b",") > MAX_COMMAS:
        raise TooMuch(f"the body has more than {MAX_COMMAS} commas, and so more values than a request may have")
    members = _parse_object(body)
    filters = members.pop("filters", None)
    if not isinstance(filters, dict | None):
        raise BadParameter("filters", "must be a JSON object")
    beside_filters = filters is not None
    parameters = {name: _read_member(name, value, beside_filters=beside_filters) for name, value in members.items()}
    for name, value in (filters or {}).items():
        other = parameters.get(name)
        if other and not (other.is_null and name in general):
            raise BadParameter(name, "is given both in filters and beside it")
        parameters[name] = _read_member(name, value, in_filters=True)
    return parameters


def _parse_object(body: bytes | bytearray) -> dict[str, Any]:
    """Parses a JSON object. Numbers stay text, so that nothing is rounded before it is read as its column's type."""
    try:
        value = json.loads(
            body.decode(), parse_int=str, parse_float=str, parse_constant=_refuse, object_pairs_hook=_distinct
        )
    except (ValueError, RecursionError) as error:
        if FORM.match(body):
            raise BadBody(f"the body must be a JSON object, not a form: {SEND}") from error
        raise BadBody(f"the body must be a JSON object in UTF-8: {error}") from error
    if not isinstance(value, dict):
        raise BadBody(f"the body must be a JSON object: {SEND}")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name is given twice in one object")
    return members


def _read_member(name: str, value: Any, *, in_filters: bool = False, beside_filters: bool = False) -> RawParameter:
    items = value if isinstance(value, list) else [value]
    texts = tuple(_read_scalar(name, item) for item in items if item is not None)
    return RawParameter(
        name,
        texts,
        is_list=isinstance(value, list),
        has_null=len(texts) < len(items),
        in_filters=in_filters,
        beside_filters=beside_filters,
        in_body=True,
    )


def _read_scalar(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    raise BadParameter(name, "must be a text, a number, true or false, or a list of these")
