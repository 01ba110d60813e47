"""The JSON body that asks for an export, made of Python's values.

A value becomes the text that its column's type reads: a date is ISO 8601, a Decimal keeps its digits. What has no such
text is a TypeError or a ValueError before anything is asked. So is None, which is an empty variable more often than a
question for NULL; `__isnull` is that question.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from math import isfinite
from typing import Any, TypeGuard
from uuid import UUID

BYTES = (bytes, bytearray, memoryview)
PLAIN_TEXT = (Decimal, UUID, IPv4Address, IPv4Network, IPv6Address, IPv6Network)


def request_body(
    dataset: str,
    columns: Sequence[str] | str | None,
    where: Mapping[str, Any] | None,
    parameters: Mapping[str, Any],
    *,
    label: str | None = None,
    ttl: str | float | timedelta | None = None,
) -> dict[str, Any]:
    """`ttl` is a text such as 2h, a number of seconds, or a timedelta; None is not given.

    Raises TypeError and ValueError with a sentence that names the argument.
    """
    if "filters" in parameters:
        raise TypeError("filters: the conditions are given as where")
    asked = {"dataset": dataset, "filters": _conditions({} if where is None else where)}
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    optional = {"columns": columns, "label": label, "ttl": seconds}
    given = {**parameters, **{name: value for name, value in optional.items() if value is not None}}
    return asked | {name: _parameter(name, value) for name, value in given.items()}


def _conditions(where: object) -> dict[str, Any]:
    if not isinstance(where, Mapping):
        raise TypeError(f"where must be a mapping of conditions, not {type(where).__name__}")
    return {name: _condition(name, value) for name, value in where.items()}


def _condition(name: object, value: object) -> Any:
    if not isinstance(name, str):
        raise TypeError(f"where must have texts for names, not {name!r}")
    value = _of_array(value)
    place = f"where[{name!r}]"
    if _is_several(value):
        return [_value(place, item) for item in value]
    return _value(place, value)


def _parameter(name: str, value: object) -> Any:
    """None goes to the server, which knows the conditions from the rest. The items of a set would come in any order."""
    if value is None:
        return None
    if isinstance(value, set | frozenset):
        raise TypeError(f"{name} must be in an order: a list, not a {type(value).__name__}")
    if _is_several(value):
        return [_value(name, item) for item in value]
    return _value(name, value)


def _is_several(value: object) -> TypeGuard[Iterable[object]]:
    """Some single values can be iterated over as well: a text, a network, the class of an enumeration."""
    single = (str, *BYTES, Mapping, type, *PLAIN_TEXT)
    return isinstance(value, Iterable) and not isinstance(value, single)


def _value(place: str, value: object) -> str | bool | int | float:
    match _of_array(value):
        case None:
            raise ValueError(f"{place} is None: COLUMN__isnull=True asks for the rows where it is NULL")
        case Enum(value=inner):
            return _value(place, inner)
        case bool() | int() | str() as plain:
            return plain
        case float() as number:
            return number if isfinite(number) else str(number)
        case date() | time() as moment:
            return moment.isoformat()
        case timedelta() as span:
            return f"{span.days} days {span.seconds} seconds {span.microseconds} microseconds"
        case bytes() | bytearray() | memoryview():
            raise TypeError(
                f"{place} is of bytes: decode a text, and write a bytea as '\\\\x' and its hexadecimal digits"
            )
        case other if isinstance(other, PLAIN_TEXT):
            return str(other)
        case other:
            raise TypeError(f"{place} has no text of its own: {type(other).__name__}")


def _of_array(value: Any) -> Any:
    """What numpy and pandas have, as Python has it."""
    return value.tolist() if hasattr(value, "tolist") and not isinstance(value, type) else value
