"""api.md: from the table of routes, the tables of parameters, and the Structs of the JSON."""

from streamer.http.api.general import GENERAL
from streamer.http.api.listing import PARAMETERS
from streamer.http.routes import ROUTES
from streamer.source.catalog.filters import SUFFIXES
from tests.docs.markdown import fenced, filled, table
from tests.docs.structs import EXAMPLES, example

MEANINGS = {
    "eq": "equal to; with `__in`, or several times, or as a JSON list: equal to any of the values",
    "ne": "not equal to any of the values",
    "gte": "at least",
    "gt": "more than",
    "lte": "at most",
    "lt": "less than",
    "contains": "for texts: has this in it; `%` and `_` are not wildcards",
    "startswith": "for texts: begins with this",
    "isnull": "`true`: the rows where the column is NULL; `false`: all others",
}


def api_page() -> str:
    parts = {"routes": _routes(), "general": _general(), "conditions": _conditions(), "list parameters": _of_the_list()}
    return filled("api", {**parts, **{f"json: {name}": fenced("json", example(name)) for name in EXAMPLES}})


def _routes() -> str:
    return table(("route", "answer"), [(f"`{route.method} {route.path}`", route.summary) for route in ROUTES])


def _general() -> str:
    rows = [(f"`{each.name}`", each.meaning, each.allowed, each.default) for each in GENERAL.values()]
    return table(("parameter", "meaning", "allowed", "default"), rows)


def _conditions() -> str:
    suffixes: dict[str, list[str]] = {"eq": [""]}
    for suffix, operator in SUFFIXES.items():
        if suffix.startswith("__"):
            suffixes.setdefault(operator, []).append(suffix)
    rows = [
        (", ".join(f"`column{suffix}`" for suffix in suffixes[operator]), meaning)
        for operator, meaning in MEANINGS.items()
    ]
    assert suffixes.keys() == MEANINGS.keys()
    return table(("condition", "meaning"), rows)


def _of_the_list() -> str:
    return table(("parameter", "meaning"), [(f"`{name}`", meaning) for name, meaning in PARAMETERS.items()])
