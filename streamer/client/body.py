"""The JSON body of a request for an export, made of Python values.

A value becomes text that the type of its column can read: a date is ISO 8601, a Decimal keeps its digits. A value that
has no such text is a TypeError or a ValueError before any request is sent. So is None, which is more often an empty
variable than a search for NULL; `__isnull` searches for NULL.
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
    dataset: str | None,
    columns: Sequence[str] | str | None,
    where: Mapping[str, Any] | None,
    parameters: Mapping[str, Any],
    *,
    label: str | None = None,
    ttl: str | float | timedelta | None = None,
) -> dict[str, Any]:
    """`ttl` is a text such as 2h, a number of seconds, or a timedelta. `dataset`, `columns`, `label` and `ttl` are left
    out if they are None.

    Raises TypeError and ValueError with a sentence that names the argument.
    """
    if "filters" in parameters:
        raise TypeError("filters: pass the conditions as where")
    body = {"filters": _conditions({} if where is None else where)}
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    optional = {"dataset": dataset, "columns": columns, "label": label, "ttl": seconds}
    given = {**parameters, **{name: value for name, value in optional.items() if value is not None}}
    return body | {name: _parameter(name, value) for name, value in given.items()}


def _conditions(where: object) -> dict[str, Any]:
    if not isinstance(where, Mapping):
        raise TypeError(f"where must be a mapping of conditions, not {type(where).__name__}")
    return {name: _condition(name, value) for name, value in where.items()}


def _condition(name: object, value: object) -> Any:
    if not isinstance(name, str):
        raise TypeError(f"where must have strings as names, not {name!r}")
    value = _from_array(value)
    argument = f"where[{name!r}]"
    if _is_collection(value):
        return [_value(argument, item) for item in value]
    return _value(argument, value)


def _parameter(name: str, value: object) -> Any:
    """None is sent as null, which the server may refuse. Raises TypeError for a set, because it has no order."""
    if value is None:
        return None
    if isinstance(value, set | frozenset):
        raise TypeError(f"{name} must be a list, because its order matters, not a {type(value).__name__}")
    if _is_collection(value):
        return [_value(name, item) for item in value]
    return _value(name, value)


def _is_collection(value: object) -> TypeGuard[Iterable[object]]:
    """Some single values are iterable, too: a string, a network, the class of an enumeration."""
    single = (str, *BYTES, Mapping, type, *PLAIN_TEXT)
    return isinstance(value, Iterable) and not isinstance(value, single)


def _value(argument: str, value: object) -> str | bool | int | float:
    match _from_array(value):
        case None:
            raise ValueError(f"{argument} is None; to select the rows with NULL, use COLUMN__isnull=True")
        case Enum(value=inner):
            return _value(argument, inner)
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
                f"{argument} has bytes: decode a text, and write a bytea as '\\\\x' and its hexadecimal digits"
            )
        case other if isinstance(other, PLAIN_TEXT):
            return str(other)
        case other:
            raise TypeError(f"{argument} has a value of type {type(other).__name__}, which cannot be sent")


def _from_array(value: Any) -> Any:
    """Returns the Python value of a value of numpy or pandas."""
    return value.tolist() if hasattr(value, "tolist") and not isinstance(value, type) else value
