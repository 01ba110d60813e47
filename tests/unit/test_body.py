"""Python values as the body of a request: JSON, or an error that names the argument."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from ipaddress import ip_address, ip_network
from typing import Any
from uuid import UUID

import pytest

from streamer.client.body import request_body

NAN = float("nan")


class Tier(StrEnum):
    FREE = "free"


class Level(IntEnum):
    HIGH = 3


class Since(Enum):
    START = date(2024, 1, 1)


class Array:
    """An object with `tolist`, as arrays and scalars of numpy and series of pandas have it."""

    def __init__(self, inside: Any) -> None:
        self._inside = inside

    def __repr__(self) -> str:
        return f"Array({self._inside!r})"

    def tolist(self) -> Any:
        return self._inside


VALUES = [
    ("US", "US"), ("", ""), (True, True), (0, 0), (10**30, 10**30), (1.5, 1.5), (NAN, "nan"), (float("-inf"), "-inf"),
    (Decimal("0.10"), "0.10"), (Decimal("NaN"), "NaN"), (date(2024, 2, 29), "2024-02-29"), (time(12, 30), "12:30:00"),
    (datetime(2024, 2, 29, 12), "2024-02-29T12:00:00"),
    (datetime(2024, 2, 29, 12, 0, 0, 5, tzinfo=UTC), "2024-02-29T12:00:00.000005+00:00"),
    (datetime(2024, 2, 29, tzinfo=timezone(timedelta(hours=-5))), "2024-02-29T00:00:00-05:00"),
    (timedelta(days=-1, hours=2, microseconds=3), "-1 days 7200 seconds 3 microseconds"),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (ip_address("::1"), "::1"), (ip_network("10.0.0.0/8"), "10.0.0.0/8"),
    (Tier.FREE, "free"), (Level.HIGH, 3), (Since.START, "2024-01-01"),
    (["US", "DE"], ["US", "DE"]), (("US",), ["US"]), (frozenset({"US"}), ["US"]), ({1: "a"}.keys(), [1]),
    (range(3), [0, 1, 2]), ([], []), ([date(2024, 1, 1), Tier.FREE, NAN], ["2024-01-01", "free", "nan"]),
    (Array(3), 3), (Array([1, 2]), [1, 2]), ([Array(1), Array(date(2024, 1, 1))], [1, "2024-01-01"]),
]  # fmt: skip


@pytest.mark.parametrize(("value", "sent"), VALUES, ids=[repr(value) for value, _ in VALUES])
def test_a_filter_value_becomes_json_without_loss(value: Any, sent: Any) -> None:
    body = request_body("users", None, {"c": value}, {})
    assert body == {"dataset": "users", "filters": {"c": sent}}
    assert json.loads(json.dumps(body, allow_nan=False)) == body


def test_a_generator_becomes_a_list() -> None:
    assert request_body("users", None, {"c": (n * n for n in range(3))}, {})["filters"] == {"c": [0, 1, 4]}


WITHOUT_TEXT: list[tuple[Any, type[Exception], str]] = [
    (None, ValueError, r"^where\['c'\] is None; to select the rows with NULL, use COLUMN__isnull=True$"),
    (["US", None], ValueError, r"^where\['c'\] is None"),
    (Array(None), ValueError, r"^where\['c'\] is None"),
    (b"US", TypeError, r"^where\['c'\] has bytes: decode a text"),
    (bytearray(b"US"), TypeError, "has bytes"),
    ({"gte": 1}, TypeError, r"^where\['c'\] has a value of type dict, which cannot be sent$"),
    ([["US"]], TypeError, "has a value of type list, which cannot be sent"),
    (..., TypeError, "has a value of type ellipsis, which cannot be sent"),
    (Tier, TypeError, "has a value of type EnumType, which cannot be sent"),
    (1j, TypeError, "has a value of type complex, which cannot be sent"),
]


@pytest.mark.parametrize(("value", "error", "sentence"), WITHOUT_TEXT, ids=[repr(row[0]) for row in WITHOUT_TEXT])
def test_a_value_without_a_text_form_is_refused(value: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        request_body("users", None, {"c": value}, {})


def test_columns_and_parameters_are_members_of_the_body() -> None:
    body = request_body("events", ("id", "at"), {}, {"delimiter": ";", "header": False, "limit": None})
    assert body == {
        "dataset": "events", "filters": {}, "columns": ["id", "at"], "delimiter": ";", "header": False, "limit": None,
    }  # fmt: skip
    assert request_body("users", "id,name", None, {"order_by": ["-id"]}) == {
        "dataset": "users", "filters": {}, "columns": "id,name", "order_by": ["-id"],
    }  # fmt: skip


def test_label_and_ttl_are_members_of_the_body() -> None:
    lifetimes: list[tuple[str | float | timedelta, str | float]] = [
        ("2h", "2h"),
        (90, 90),
        (timedelta(hours=2), 7200.0),
    ]
    for ttl, written in lifetimes:
        body = request_body("users", None, {"label": "a column"}, {}, label="Month end", ttl=ttl)
        assert body == {"dataset": "users", "filters": {"label": "a column"}, "label": "Month end", "ttl": written}
    assert request_body("users", None, None, {}, label=None, ttl=None).keys() == {"dataset", "filters"}
    assert request_body("users", None, None, {}, label="")["label"] == ""


def test_empty_columns_are_sent_as_empty() -> None:
    """The server refuses both; dropping them would export every column."""
    assert request_body("users", [], None, {})["columns"] == []
    assert request_body("users", "", None, {})["columns"] == ""


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (
            lambda: request_body("users", {"id"}, None, {}),  # type: ignore[arg-type]
            "^columns must be a list, because its order matters, not a set$",
        ),
        (lambda: request_body("users", None, None, {"order_by": {"id"}}), "^order_by must be a list"),
        (lambda: request_body("users", None, [("c", "US")], {}), "^where must be a mapping of conditions, not list$"),  # type: ignore[arg-type]
        (lambda: request_body("users", None, "", {}), "^where must be a mapping of conditions, not str$"),  # type: ignore[arg-type]
        (lambda: request_body("users", None, {1: "US"}, {}), "^where must have strings as names, not 1$"),  # type: ignore[dict-item]
        (
            lambda: request_body("users", None, {"c": 1}, {"filters": {}}),
            "^filters: pass the conditions as where$",
        ),
        (lambda: request_body("users", ["id", b"x"], None, {}), "^columns has bytes"),  # type: ignore[list-item]
    ],
)
def test_arguments_that_could_drop_a_filter_or_reorder_columns_are_refused(
    ask: Callable[[], Any], sentence: str
) -> None:
    with pytest.raises(TypeError, match=sentence):
        ask()


def test_a_dataset_that_is_not_given_is_left_to_the_server() -> None:
    assert request_body(None, None, None, {}) == {"filters": {}}
