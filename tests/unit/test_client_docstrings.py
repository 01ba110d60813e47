"""The docstrings of the client: every exported name says what goes in, in which unit, and what comes out."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streamer import client
from streamer.client import StreamerError

ERRORS = [
    name
    for name in client.__all__
    if issubclass(type(getattr(client, name)), type) and issubclass(getattr(client, name), StreamerError)
]
DOCUMENTED = [
    name for name in client.__all__ if name not in {*ERRORS, "Export", "ProgressListener"}
]  # have no arguments
METHODS = [
    (name, method)
    for name in ("Client", "Export", "ProgressListener")
    for method, member in vars(getattr(client, name)).items()
    if not method.startswith("_") and callable(member)
]


def parameters_of(member: Callable[..., Any]) -> Iterator[str]:
    return (name for name in inspect.signature(member).parameters if name != "self")


@pytest.mark.parametrize("name", client.__all__)
def test_every_exported_name_has_a_docstring(name: str) -> None:
    assert (getattr(client, name).__doc__ or "").strip()


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_docstring_describes_each_argument(name: str) -> None:
    member = getattr(client, name)
    described = [parameter for parameter in parameters_of(member) if f"    {parameter}: " in member.__doc__]
    assert described == list(parameters_of(member))


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_a_docstring_of_a_method_names_each_argument(name: str, method: str) -> None:
    member = getattr(getattr(client, name), method)
    assert member.__doc__
    for parameter in parameters_of(member):
        assert parameter in member.__doc__


@pytest.mark.parametrize("name", ERRORS)
def test_a_docstring_of_an_error_names_its_exit_status(name: str) -> None:
    error: type[StreamerError] = getattr(client, name)
    assert error.__doc__
    assert error is StreamerError or f"Exit status {error.exit_status}." in error.__doc__
    assert error is StreamerError or f"`{name}`" in (StreamerError.__doc__ or "")
