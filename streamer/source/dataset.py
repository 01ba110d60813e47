"""Datasets: relations that may be exported, by the names that clients use, and their columns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from streamer.model import Condition, Operator, Order

PG_CATALOG = "pg_catalog"

EQUALITY = (Operator.EQ, Operator.NE)
COMPARISONS = (Operator.GTE, Operator.GT, Operator.LTE, Operator.LT)
SEARCHES = (Operator.CONTAINS, Operator.STARTSWITH)

STRINGS = "S"  # pg_type.typcategory of text and similar types
TEXTUAL_CATEGORIES = (STRINGS, "E")  # and of enums
TEXTUAL_TYPES = ("xml", "char", "refcursor")  # of other categories, whose values are free text


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a dataset.

    `declared` is its type as SQL writes it. `type` is the name of the type that values are read as, with its schema
    unless that is pg_catalog; `length` is in characters; `category` is the typcategory of the type. `compared` says
    whether a value can be equal to a literal, `ordered` whether the type has an order; `operators_in` is the schema of
    the operators for both. `searched` says whether LIKE works with the collation of the column.
    """

    name: str
    declared: str
    type: str
    length: int | None
    category: str = "U"
    compared: bool = True
    ordered: bool = True
    searched: bool = True
    operators_in: str = PG_CATALOG

    @property
    def operators(self) -> tuple[Operator, ...]:
        """The operators that a condition on this column may have."""
        comparable = (*EQUALITY, *(COMPARISONS if self.ordered else ())) if self.compared else ()
        return (*comparable, *(SEARCHES if self.category == STRINGS and self.searched else ()), Operator.ISNULL)

    @property
    def textual(self) -> bool:
        """Whether a value is free text: not a number, a date, or the notation of another type."""
        return self.category in TEXTUAL_CATEGORIES or self.type in TEXTUAL_TYPES


class Locker(StrEnum):
    """Has the privilege to lock a relation for reading: the user of the connection, or the role of the exports."""

    USER = "user"
    ROLE = "role"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A relation by the name that clients use, with the configuration of the file of datasets.

    `oid` and `shape` are compared with what a snapshot sees: see consistency.py. `locker` is None if the relation
    cannot be locked, because of its kind or because neither user nor role has the privilege on the whole of it.
    `stores_rows` is True for a table and a materialized view, and for a table whose partitions store its rows.

    `hidden` columns are not offered; `conditions` and `order` may name them. An export must have a condition on each of
    the `required` columns. `limit` is in rows.
    """

    name: str
    schema: str
    relation: str
    columns: Mapping[str, Column]
    oid: int = 0
    shape: int | None = None
    locker: Locker | None = None
    stores_rows: bool = False
    hidden: Mapping[str, Column] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    order: tuple[Order, ...] = ()
    required: tuple[str, ...] = ()
    limit: int | None = None
    description: str | None = None
    estimated_rows: int | None = None

    @property
    def known(self) -> Mapping[str, Column]:
        """All columns, offered and hidden."""
        return {**self.hidden, **self.columns}
