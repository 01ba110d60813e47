"""The states of an export, and the values that are stored as JSON and in the database."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.model import (
    EVERYBODY,
    OPEN,
    SPEC_VERSION,
    TRANSITIONS,
    Bounds,
    Condition,
    Dialect,
    Export,
    ExportSpec,
    Operator,
    Order,
    Principal,
    Progress,
    State,
    Timestamps,
    dataset_in_json,
    may_see,
    successors,
)

FINAL = {State.COMPLETED, State.FAILED, State.CANCELLED}

conditions = st.builds(
    Condition, column=st.text(), operator=st.sampled_from(Operator), values=st.lists(st.text()).map(tuple)
)
specs = st.builds(
    ExportSpec,
    dataset=st.text(),
    columns=st.lists(st.text()).map(tuple),
    conditions=st.lists(conditions, max_size=4).map(tuple),
    order=st.lists(st.builds(Order, column=st.text(), descending=st.booleans()), max_size=2).map(tuple),
    limit=st.none() | st.integers(0, 10**18),
    dialect=st.builds(
        Dialect,
        delimiter=st.characters(max_codepoint=127),
        quote=st.characters(max_codepoint=127),
        header=st.booleans(),
        null=st.text(),
        bom=st.booleans(),
        escape_formulas=st.booleans(),
        timestamps=st.sampled_from(Timestamps),
    ),
    bounds=st.builds(
        Bounds,
        role=st.none() | st.text(),
        conditions=st.lists(conditions, max_size=2).map(tuple),
        limit=st.none() | st.integers(0, 10**18),
    ),
)


def reachable(start: State) -> set[State]:
    found: set[State] = set()
    ahead = {start}
    while ahead:
        state = ahead.pop()
        found.add(state)
        ahead |= successors(state) - found
    return found


def test_new_exports_wait_or_begin_at_once() -> None:
    assert {each.enters for each in TRANSITIONS.values() if not each.leaves} == {State.PENDING, State.PROCESSING}


@pytest.mark.parametrize("state", State)
def test_state_is_final_exactly_when_no_statement_leaves_it(state: State) -> None:
    assert state.final is (state in FINAL)
    assert bool(successors(state)) is (state not in FINAL)


def test_every_state_is_reached_from_pending() -> None:
    assert reachable(State.PENDING) == set(State)


@pytest.mark.parametrize("state", sorted(set(State) - FINAL))
def test_every_final_state_can_follow_an_unfinished_one(state: State) -> None:
    assert reachable(state) >= FINAL


def test_only_a_run_that_is_repeated_returns_to_an_earlier_state() -> None:
    back = [(state, following) for state in State for following in successors(state) if state in reachable(following)]
    assert sorted(back) == [(State.PENDING, State.PROCESSING), (State.PROCESSING, State.PENDING)]


def test_completed_follows_only_processing() -> None:
    assert [state for state in State if State.COMPLETED in successors(state)] == [State.PROCESSING]


@settings(max_examples=100, deadline=None)
@given(specs)
def test_any_spec_survives_json_unchanged(spec: ExportSpec) -> None:
    assert ExportSpec.from_json(spec.to_json()) == spec


def test_spec_in_json_of_older_versions_is_read() -> None:
    spec = ExportSpec(
        dataset="users",
        columns=("id", "name"),
        conditions=(Condition(column="id", operator=Operator.GTE, values=("5",)),),
        dialect=Dialect(delimiter=";"),
    )
    text = (
        '{"dataset":"users","columns":["id","name"],'
        '"conditions":[{"column":"id","operator":"gte","values":["5"]}],'
        '"dialect":{"delimiter":";","quote":"\\""}}'
    )
    assert ExportSpec.from_json(text) == spec
    assert ExportSpec.from_json(spec.to_json()) == spec


def test_spec_without_conditions_and_dialect_has_the_defaults() -> None:
    spec = ExportSpec.from_json('{"dataset":"users","columns":["id"]}')
    assert spec == ExportSpec(
        dataset="users", columns=("id",), conditions=(), dialect=Dialect(delimiter=",", quote='"')
    )


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Condition(column="id", operator=Operator.EQ, values=("1",)), "values"),
        (Dialect(), "quote"),
        (ExportSpec(dataset="users", columns=("id",)), "columns"),
        (Order(column="id"), "column"),
        (Progress(), "bytes"),
    ],
)
def test_values_cannot_be_changed(value: object, name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(value, name, None)


def test_progress_of_a_queued_export_is_zero() -> None:
    assert Progress() == Progress(
        total_rows=0, estimated=True, processed_rows=0, bytes=0, percentage=0.0, rows_per_second=0
    )


SPEC = ExportSpec(
    dataset="users",
    columns=("id",),
    conditions=(Condition(column="id", operator=Operator.GTE, values=("5",)),),
    order=(Order(column="id"),),
)


def changed(*path: str | int, to: object) -> str:
    """Returns the JSON of SPEC with another value at a path."""
    whole = json.loads(SPEC.to_json())
    *parents, last = path
    part = whole
    for step in parents:
        part = part[step]
    part[last] = to
    return json.dumps(whole)


FROM_ELSEWHERE = {
    "a field of the request": changed("offset", to=5),
    "a field of a condition": changed("conditions", 0, "negated", to=True),
    "a field of an order": changed("order", 0, "nulls", to="first"),
    "a field of the dialect": changed("dialect", "line_end", to="crlf"),
    "a field that is null": changed("offset", to=None),
    "an operator": changed("conditions", 0, "operator", to="matches"),
    "a form of timestamps": changed("dialect", "timestamps", to="unix"),
    "another type": changed("limit", to="5"),
    "a version": changed("version", to=SPEC_VERSION + 1),
    "a version that is text": changed("version", to="1"),
    "nothing": "",
    "half of it": SPEC.to_json()[:-5],
    "another value": "[]",
}


def test_json_contains_its_version_and_is_read_without_it() -> None:
    assert json.loads(SPEC.to_json())["version"] == SPEC_VERSION
    without = json.loads(SPEC.to_json())
    del without["version"]
    assert ExportSpec.from_json(json.dumps(without)) == SPEC


@pytest.mark.parametrize("text", FROM_ELSEWHERE.values(), ids=FROM_ELSEWHERE)
def test_unknown_fields_and_values_are_refused(text: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        ExportSpec.from_json(text)


def test_equal_values_have_one_hash() -> None:
    again = ExportSpec.from_json(SPEC.to_json())
    assert len({SPEC, again}) == 1
    assert len({again.conditions[0], *SPEC.conditions, again.order[0], *SPEC.order, Dialect(), again.dialect}) == 3


def test_row_becomes_an_export() -> None:
    spec = ExportSpec(dataset="users", columns=("id",))
    progress = Progress(total_rows=10, estimated=False, processed_rows=9, bytes=80, percentage=90.0, rows_per_second=7)
    export = Export(
        id=uuid4(),
        principal="key:reports",
        epoch=3,
        state=State.FAILED,
        spec=spec,
        progress=progress,
        created_at=datetime(2024, 1, 1, tzinfo=UTC),
        started_at=datetime(2024, 1, 2, tzinfo=UTC),
        finished_at=datetime(2024, 1, 3, tzinfo=UTC),
        snapshot_at=datetime(2024, 1, 4, tzinfo=UTC),
        removed_at=None,
        error="no room",
        sha256=b"\x01",
        attempts=2,
        served=True,
        truncated=True,
        waiting_for=None,
        folder=uuid4(),
        label="month end",
        ttl=timedelta(hours=2),
    )
    row = {
        "id": export.id,
        "principal": "key:reports",
        "epoch": 3,
        "state": "failed",
        "spec": spec.to_json(),
        "spec_version": 1,
        "total_rows": 10,
        "estimated": False,
        "processed_rows": 9,
        "bytes": 80,
        "percentage": 90.0,
        "rows_per_second": 7,
        "created_at": export.created_at,
        "started_at": export.started_at,
        "finished_at": export.finished_at,
        "snapshot_at": export.snapshot_at,
        "removed_at": None,
        "error": "no room",
        "sha256": b"\x01",
        "attempts": 2,
        "served": True,
        "truncated": True,
        "waiting_for": None,
        "folder": export.folder,
        "label": "month end",
        "label_folded": "month end",
        "ttl": timedelta(hours=2),
        "server_id": uuid4(),
        "lease_until": None,
    }
    assert Export.from_row(row) == export
    assert export.final
    for spec_of_another in ({"spec": "{"}, {"spec_version": SPEC_VERSION + 1}):
        assert Export.from_row({**row, **spec_of_another}) == replace(export, spec=None)
    of_another = Export.from_row({**row, "state": "archived"})
    assert (of_another.state, of_another.final) == ("archived", False)


@pytest.mark.parametrize("name", ["users", 'say "hi"', "back\\slash", "tab\t", "北京", ""])
def test_the_dataset_is_found_in_the_json_of_a_request(name: str) -> None:
    """By the expression of page.sql and of its index."""
    text = ExportSpec(dataset=name, columns=("id",)).to_json()
    for spec in (text, text.replace(f'"version":{SPEC_VERSION},', "", 1)):  # of the first versions
        found = re.search(r'"dataset":("(?:[^"\\]|\\.)*")', spec)
        assert found
        assert found[1] == dataset_in_json(name)


def test_a_spec_of_the_first_version_has_no_bounds() -> None:
    spec = ExportSpec.from_json('{"version":1,"dataset":"users","columns":["id"],"limit":5}')
    assert spec == ExportSpec(dataset="users", columns=("id",), limit=5)
    with pytest.raises(msgspec.ValidationError):
        ExportSpec.from_json('{"version":1,"dataset":"users","columns":["id"],"bounds":{}}')


def test_everybody_sees_all_exports_and_a_principal_its_own() -> None:
    assert may_see(EVERYBODY, "key:reports")
    assert may_see(Principal(name="key:reports"), "key:reports")
    assert not may_see(OPEN, "key:reports")
