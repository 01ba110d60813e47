"""Filter keys: their column and operator, and the sentences for invalid ones."""

import pytest

from streamer.model import Condition, Operator, Order
from streamer.source.catalog.filters import MAX_VALUES, filter_key, parameters_of, read_condition, read_order
from streamer.source.dataset import Column

TEXT = Column(name="words", declared="text", type="text", length=None, category="S")
NUMBER = Column(name="n", declared="integer", type="int4", length=None, category="N")
JSON = Column(name="tree", declared="json", type="json", length=None, compared=False, ordered=False)
XID = Column(name="x", declared="xid", type="xid", length=None, ordered=False)
AT = Column(name="at", declared="timestamptz", type="timestamptz", length=None, category="D")
COLUMNS = {
    column.name: column
    for column in (TEXT, NUMBER, JSON, XID, AT, *(Column(name=name, declared="int", type="int4", length=None)
                   for name in ("load", "load_max", "load__in", "-n", "a,b")))
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("n", ("n", Operator.EQ)),
        ("n__in", ("n", Operator.EQ)),
        ("n__ne", ("n", Operator.NE)),
        ("n__gte", ("n", Operator.GTE)),
        ("n_min", ("n", Operator.GTE)),
        ("n_from", ("n", Operator.GTE)),
        ("n__gt", ("n", Operator.GT)),
        ("n__lte", ("n", Operator.LTE)),
        ("n_max", ("n", Operator.LTE)),
        ("n_to", ("n", Operator.LTE)),
        ("n__lt", ("n", Operator.LT)),
        ("words__contains", ("words", Operator.CONTAINS)),
        ("words__startswith", ("words", Operator.STARTSWITH)),
        ("words__isnull", ("words", Operator.ISNULL)),
        ("load_max", ("load_max", Operator.EQ)),  # the name of a column takes precedence
        ("load_max_max", ("load_max", Operator.LTE)),
        ("load__in", ("load__in", Operator.EQ)),
        ("load__in__in", ("load__in", Operator.EQ)),
        ("load_min", ("load", Operator.GTE)),
        ("n__eq", None),
        ("n__like", None),
        ("N", None),
        ("__gte", None),
        ("", None),
    ],
)
def test_a_name_is_a_column_and_an_operator(name: str, meaning: tuple[str, Operator] | None) -> None:
    assert filter_key(name, COLUMNS) == meaning


@pytest.mark.parametrize(
    ("column", "operators"),
    [
        (TEXT, "eq ne gte gt lte lt contains startswith isnull"),
        (NUMBER, "eq ne gte gt lte lt isnull"),
        (XID, "eq ne isnull"),
        (JSON, "isnull"),
    ],
)
def test_a_type_has_the_operators_of_its_operator_classes(column: Column, operators: str) -> None:
    assert [operator.value for operator in column.operators] == operators.split()


def test_parameters_of_a_column_are_parsed_as_its_operators() -> None:
    for column in COLUMNS.values():
        found = [filter_key(name, COLUMNS) for name in parameters_of(column)]
        assert {operator for name, operator in filter(None, found) if name == column.name} == set(column.operators)


@pytest.mark.parametrize(
    ("column", "operator", "texts", "sentence"),
    [
        (JSON, Operator.EQ, ["{}"], "unknown operator for json, which has: tree__isnull"),
        (XID, Operator.LT, ["1"], "unknown operator for xid, which has: x, x__ne, x__isnull, x__in"),
        (NUMBER, Operator.CONTAINS, ["1"], "unknown operator for integer, which has: n, "),
        (NUMBER, Operator.EQ, ["1"] * (MAX_VALUES + 1), "must have at most 1000 values, not 1001"),
        (NUMBER, Operator.GT, ["1", "2"], "must be one value, not a list"),
        (NUMBER, Operator.NE, ["x"], "must be a whole number from"),
        (TEXT, Operator.ISNULL, ["yes"], "must be true or false, not 'yes'"),
        (TEXT, Operator.CONTAINS, ["\0"], "must be valid Unicode text without NUL"),
        (TEXT, Operator.CONTAINS, [""], "must not be empty: that would match every text"),
        (TEXT, Operator.STARTSWITH, [""], "must not be empty: that would match every text"),
        (AT, Operator.LTE, ["0000-12-31"], "must be a date or a time such as 2024-12-31"),
    ],
)
def test_an_invalid_condition_is_refused_with_a_sentence(
    column: Column, operator: Operator, texts: list[str], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_condition(column, operator, texts)


@pytest.mark.parametrize(
    ("column", "operator", "texts", "condition"),
    [
        (NUMBER, Operator.NE, ["1", "2"], ("n", "ne", ("1", "2"))),
        (TEXT, Operator.CONTAINS, ["50%_\\"], ("words", "contains", ("50%_\\",))),
        (TEXT, Operator.ISNULL, ["TRUE"], ("words", "isnull", ("true",))),
        (XID, Operator.EQ, ["whatever"], ("x", "eq", ("whatever",))),  # PostgreSQL is asked
        (AT, Operator.LTE, ["2024-01-31"], ("at", "lt", ("2024-02-01T00:00:00+00:00",))),
        (AT, Operator.GT, ["2024-01-31"], ("at", "gt", ("2024-01-31T00:00:00+00:00",))),
    ],
)
def test_a_condition_has_the_values_for_the_database(
    column: Column, operator: Operator, texts: list[str], condition: tuple[str, str, tuple[str, ...]]
) -> None:
    name, kind, values = condition
    assert read_condition(column, operator, texts) == Condition(column=name, operator=Operator(kind), values=values)


@pytest.mark.parametrize(
    ("text", "order"),
    [("n", ("n", False)), ("-words", ("words", True)), ("-n", ("-n", False)), ("--n", ("-n", True))],
)
def test_an_order_is_a_column_with_a_sign(text: str, order: tuple[str, bool]) -> None:
    assert read_order(text, COLUMNS) == Order(column=order[0], descending=order[1])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("nothing", "there is no column 'nothing'; allowed are words, n"), ("-tree", "the type of tree, json, has no"),
     ("+n", r"there is no column '\+n'"), ("", "there is no column ''")],
)  # fmt: skip
def test_an_invalid_order_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_order(text, COLUMNS)
