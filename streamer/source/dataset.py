"""What may be exported: a relation under the name that clients use, and its columns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from streamer.model import Condition, Operator, Order

PG_CATALOG = "pg_catalog"


EQUALITY = (Operator.EQ, Operator.NE)


COMPARISONS = (Operator.GTE, Operator.GT, Operator.LTE, Operator.LT)


SEARCHES = (Operator.CONTAINS, Operator.STARTSWITH)


STRINGS = "S"  # pg_type.typcategory of text and what is like it


TEXTUAL_CATEGORIES = (STRINGS, "E")  # and of enums


OTHER_TEXTS = ("xml", "char", "refcursor")  # whose values are what somebody wrote


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """`type` is the name of the type that values are read as, with its schema unless that is pg_catalog; `length` is in
    characters.

    `category` is its typcategory; `compared` says whether a value can be equal to a literal, `ordered` whether the type
    has an order, and `operators_in` in which schema the operators for both are. `searched` says whether LIKE works with
    the collation of the column.
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
        """Those that a condition on this column may have."""
        comparable = (*EQUALITY, *(COMPARISONS if self.ordered else ())) if self.compared else ()
        return (*comparable, *(SEARCHES if self.category == STRINGS and self.searched else ()), Operator.ISNULL)

    @property
    def textual(self) -> bool:
        """Whether a value is text that somebody wrote, not a number, a date, or the notation of something."""
        return self.category in TEXTUAL_CATEGORIES or self.type in OTHER_TEXTS


class Locker(StrEnum):
    """Who may lock a relation for reading: the user of the connection, or the role that exports."""

    USER = "user"
    ROLE = "role"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A relation under the name that clients use, and what its operator demands of its exports.

    `oid` and `shape` tell whether a snapshot sees the same relation and the same columns: see consistency.py. `locker`
    is None where the relation cannot be locked, because of its kind or for want of a privilege on all of it.

    `hidden` columns are not offered; `conditions` and `order` may name them. Of the columns that are `required` an
    export must name a condition. `limit` is in rows.
    """

    name: str
    schema: str
    relation: str
    columns: Mapping[str, Column]
    oid: int = 0
    shape: int | None = None
    locker: Locker | None = None
    plain: bool = False  # a table or a materialized view: rows of its own, or of its partitions
    hidden: Mapping[str, Column] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    order: tuple[Order, ...] = ()
    required: tuple[str, ...] = ()
    limit: int | None = None
    description: str | None = None
    estimated_rows: int | None = None

    @property
    def known(self) -> Mapping[str, Column]:
        """The columns that are offered and those that are not."""
        return {**self.hidden, **self.columns}
