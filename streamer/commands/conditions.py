"""The NAME=VALUE of `--where` and `--set`, with a hint for conditions that are written as in SQL.

The command does not know the columns of the server, so it judges the text alone. A column whose name looks like an
operator can be given with `--set`, which has no such hints.
"""

import re
import shlex

import click

OPERATORS = {">=": "__gte", ">": "__gt", "<=": "__lte", "<": "__lt", "!=": "__ne", "<>": "__ne", "==": ""}
COMPARISON = re.compile(r"([^=<>!]+?)\s*(>=|<=|<>|!=|==|>|<)\s*(.*)", re.DOTALL)
NULL_TEST = re.compile(r"([^\s=]+)\s+is\s+(not\s+)?null", re.IGNORECASE)
NO_PAIR = "is not of the form NAME=VALUE"
NO_CONDITION = "is not a condition such as country_code=US or lifetime_value__gte=500"


def parse_conditions(texts: tuple[str, ...]) -> dict[str, str | list[str]]:
    """Parses the values of `--where`. Raises click.UsageError, with the right spelling if it is known."""
    for text in texts:
        if spelling := _spelling(text):
            raise click.UsageError(f"instead of {text}, write {shlex.quote(spelling)}")
    return parse_pairs(texts, NO_CONDITION)


def parse_pairs(texts: tuple[str, ...], complaint: str = NO_PAIR) -> dict[str, str | list[str]]:
    """Parses NAME=VALUE; the values of a repeated name become a list. Raises click.UsageError."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name.strip():
            raise click.UsageError(f"{text!r} {complaint}")
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _spelling(text: str) -> str | None:
    """Returns how the API spells a condition of SQL; None if it is none."""
    if found := COMPARISON.fullmatch(text):
        column, operator, value = found.groups()
        return f"{column}{OPERATORS[operator]}={value}"
    if found := NULL_TEST.fullmatch(text):
        return f"{found[1]}__isnull={'false' if found[2] else 'true'}"
    name, separator, value = text.partition("=")
    return f"{name.strip()}={value.strip()}" if separator and name.strip() and name.endswith(" ") else None
