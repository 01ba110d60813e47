"""The table of routes: what the documentation says of a route is what the server has."""

import re

from streamer.http.routes import ROUTES


def test_every_route_is_there_once_with_a_sentence() -> None:
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)
    assert all(re.fullmatch(r"(?:[A-Z0-9]|`).+\.", route.summary) for route in ROUTES)


def test_every_variable_of_a_path_has_a_pattern() -> None:
    for route in ROUTES:
        variables = re.findall(r"\{([a-z]+)\}", route.path)
        assert [f"{{{name}:" in route.pattern for name in variables] == [True] * len(variables)


def test_route_for_get_serves_head() -> None:
    assert {route.methods for route in ROUTES} == {("GET", "HEAD"), ("POST",), ("DELETE",)}
