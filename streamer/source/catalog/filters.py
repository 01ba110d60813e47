"""Filter keys: `signup_date_to=2024-12-31` is a column, an operator and a value.

Requests and the file of datasets use the same keys. An invalid one is a ValueError with a sentence, before which the
caller puts the name.
"""

from collections.abc import Collection, Mapping, Sequence

from streamer.errors import shown
from streamer.model import Condition, Operator, Order
from streamer.source.catalog.moments import is_date, next_day
from streamer.source.catalog.suggestions import comparison, no_such, similar
from streamer.source.catalog.values import parse_bool, read_text, read_value
from streamer.source.dataset import Column

MAX_VALUES = 1000  # of one condition
SUFFIXES = {
    "__in": Operator.EQ,
    "__ne": Operator.NE,
    "__gte": Operator.GTE,
    "__gt": Operator.GT,
    "__lte": Operator.LTE,
    "__lt": Operator.LT,
    "_min": Operator.GTE,
    "_from": Operator.GTE,
    "_max": Operator.LTE,
    "_to": Operator.LTE,
    "__contains": Operator.CONTAINS,
    "__startswith": Operator.STARTSWITH,
    "__isnull": Operator.ISNULL,
}
OF_SEVERAL = (Operator.EQ, Operator.NE)  # operators that may have more than one value
MOMENTS = ("timestamp", "timestamptz")

FilterKey = tuple[str, Operator]
"""A column and an operator."""


def filter_key(name: str, columns: Mapping[str, Column]) -> FilterKey | None:
    """Returns the column and the operator of a name, or None. A column of that name takes precedence."""
    if name in columns:
        return name, Operator.EQ
    for suffix, operator in SUFFIXES.items():
        if name.endswith(suffix) and (column := name.removesuffix(suffix)) in columns:
            return column, operator
    return None


def read_condition(column: Column, operator: Operator, texts: Sequence[str]) -> Condition:
    """Returns a condition. Raises ValueError with a sentence that says what is allowed."""
    if operator not in column.operators:
        raise ValueError(f"unknown operator for {column.declared}, which has: {', '.join(parameters_of(column))}")
    if len(texts) > 1 and operator not in OF_SEVERAL:
        raise ValueError("must be one value, not a list")
    if len(texts) > MAX_VALUES:
        raise ValueError(f"must have at most {MAX_VALUES} values, not {len(texts)}")
    if operator is Operator.LTE and column.type in MOMENTS and is_date(texts[0]):
        return _through(column, texts[0])
    return Condition(
        column=column.name, operator=operator, values=tuple(_read(column, operator, text) for text in texts)
    )


def read_order(text: str, columns: Mapping[str, Column]) -> Order:
    """Parses `column` or `-column`. Raises ValueError with a sentence that says what is allowed."""
    descending = text not in columns and text.startswith("-")
    name = text[1:] if descending else text
    if name not in columns:
        raise ValueError(f"{no_such('column', name, columns)} (- before it: descending)")
    if not columns[name].ordered:
        raise ValueError(f"the type of {name}, {columns[name].declared}, has no order")
    return Order(column=name, descending=descending)


def written_order(order: Sequence[Order]) -> list[str]:
    """Returns the terms of an order as `read_order` parses them."""
    return [f"-{by.column}" if by.descending else by.column for by in order]


def parameters_of(column: Column) -> list[str]:
    """Returns the keys for a column, one for each operator and `__in`."""
    suffixes = {operator: suffix for suffix, operator in SUFFIXES.items() if suffix.startswith("__")}
    names = [column.name if each is Operator.EQ else column.name + suffixes[each] for each in column.operators]
    return [*names, f"{column.name}__in"] if Operator.EQ in column.operators else names


def unknown_key(name: str, written: str, columns: Mapping[str, Column], others: Collection[str]) -> str | None:
    """Returns a sentence about a name that is neither a key nor one of `others`, with what was probably meant.

    `written` is the name with its value, as the client wrote them. None if nothing is known that is like the name.
    """
    if meant := comparison(written, columns):
        return f"write {meant}"
    column, separator, operator = name.rpartition("__")
    if separator and column in columns:
        allowed = ", ".join(parameters_of(columns[column]))
        return f"unknown operator __{shown(operator)}; {columns[column].declared} has: {allowed}"
    for suffix in SUFFIXES:
        bare = suffix.lstrip("_")
        stem = name.removesuffix(f"_{bare}").rstrip("_")
        if name.endswith(f"_{bare}") and (meant := stem if stem in columns else similar(stem, columns)):
            return f"unknown parameter; did you mean {meant}{suffix}?"
    meant = similar(name, [*columns, *others])
    return f"unknown parameter; did you mean {meant}?" if meant else None


def _read(column: Column, operator: Operator, text: str) -> str:
    match operator:
        case Operator.ISNULL:
            return parse_bool(text)
        case Operator.CONTAINS | Operator.STARTSWITH:
            if not text:
                raise ValueError("must not be empty: that would match every text")
            return read_text(text)
        case _:
            return read_value(column, text)


def _through(column: Column, day: str) -> Condition:
    """Returns a condition that includes the whole of the day."""
    read_value(column, day)
    return Condition(column=column.name, operator=Operator.LT, values=(read_value(column, next_day(day)),))
