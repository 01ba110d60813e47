"""The statements that set a state, compared with the table of transitions."""

import inspect
import re

import pytest

import streamer.jobs.queue
import streamer.jobs.servers
import streamer.jobs.store
from streamer.jobs.table import STATEMENTS
from streamer.model import TRANSITIONS, State, Transition

STATEMENTS = {name: re.sub(r"--[^\n]*", "", sql) for name, sql in STATEMENTS.items()}  # without comments
INSERTED = re.compile(r"INSERT INTO streamer\.exports \(id, state,[^)]*\)\s+SELECT \$1::uuid, '(\w+)'")
ASSIGNED = re.compile(r"\bSET\b.*\bstate = '(\w+)'", re.DOTALL)
COMPARED = re.compile(r"\bstate (?:= ('\w+')|IN \(([^)]*)\))")


def transition_in(sql: str) -> Transition | None:
    """The transition that a statement makes; None if it sets no state."""
    if inserted := INSERTED.search(sql):
        return Transition(frozenset(), State(inserted[1]))
    assignments, *conditions = re.split(r"\bWHERE\b", sql, maxsplit=1)
    assigned = ASSIGNED.search(assignments)
    if assigned is None:
        return None
    texts = ",".join(one or several for one, several in COMPARED.findall("".join(conditions)))
    return Transition(frozenset(map(State, re.findall(r"'(\w+)'", texts))), State(assigned[1]))


def test_every_statement_that_writes_a_state_is_in_the_table() -> None:
    assert {name for name, sql in STATEMENTS.items() if transition_in(sql)} == set(TRANSITIONS)


@pytest.mark.parametrize("name", TRANSITIONS)
def test_statement_leaves_and_enters_the_states_of_the_table(name: str) -> None:
    assert transition_in(STATEMENTS[name]) == TRANSITIONS[name]


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_every_statement_is_executed_in_one_place(name: str) -> None:
    sources = [
        inspect.getsource(module) for module in (streamer.jobs.queue, streamer.jobs.servers, streamer.jobs.store)
    ]
    assert sum(len(re.findall(rf'"{name}"', source)) for source in sources) == 1


@pytest.mark.parametrize("name", sorted(set(STATEMENTS) - set(TRANSITIONS)))
def test_no_other_statement_inserts_or_assigns_a_state(name: str) -> None:
    before_condition = re.split(r"\bWHERE\b", STATEMENTS[name])[0]
    assert not re.search(r"\bINSERT INTO streamer\.exports\b|\bSET\b.*\bstate\b", before_condition, re.DOTALL)


@pytest.mark.parametrize(
    ("sql", "transition"),
    [
        ("SELECT id FROM streamer.exports\nWHERE state = 'pending'", None),
        ("UPDATE streamer.exports\nSET used_at = now() WHERE state = 'completed'", None),
        (
            "UPDATE streamer.exports\nSET error = $2, state = 'failed'\nWHERE state IN ('pending', 'processing')",
            Transition(frozenset({State.PENDING, State.PROCESSING}), State.FAILED),
        ),
        ("UPDATE streamer.exports\nSET state = 'failed'\nWHERE id = $1", Transition(frozenset(), State.FAILED)),
    ],
)
def test_transition_is_read_from_sql(sql: str, transition: Transition | None) -> None:
    assert transition_in(sql) == transition
