"""Which relations the file of datasets has restricted, for as long as the process lives.

The file restricts a relation by its name, and a pattern in DATASETS finds relations by theirs, but a name may pass from
one relation to another: after `ALTER TABLE a RENAME TO old; ALTER TABLE b RENAME TO a` the file restricts b, and the
pattern finds old, without its hidden columns and forced filters. So relations are remembered by their oids, and what
was restricted once is not offered as it is. The same holds for what a pattern finds below such a relation in the
inheritance tree, because its rows are rows of the restricted one. A partition that is detached becomes a table like any
other, so what is below is remembered, too.

Columns are remembered by their numbers, for the same reason: after `ALTER TABLE a RENAME card TO old` and a new column
`card`, the file hides the new one, and `old` stays hidden.

Only the operator takes that back: by an entry for the relation in the file, or by removing the entry that was there, if
what it named is still the same relation. A process that starts has nothing to remember.
"""

from collections.abc import Collection, Mapping

from streamer.postgres.driver import Connection
from streamer.source.catalog.configuration import DatasetConfig

BELOW = """
    WITH RECURSIVE family (root, member) AS (
        SELECT given, given FROM pg_catalog.unnest($1::pg_catalog.oid[]) AS given
      UNION
        SELECT root, inhrelid FROM family JOIN pg_catalog.pg_inherits ON inhparent = member
    )
    SELECT root, member FROM family WHERE member <> root
"""
STILL_NAMED = """
    SELECT oid
    FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.oid[]), pg_catalog.unnest($2::pg_catalog.text[]))
        AS given (oid, name)
    WHERE pg_catalog.to_regclass(name) = oid
"""


class Restrictions:
    def __init__(self) -> None:
        self._names: dict[int, str] = {}  # of the restricted relations, as the file had them
        self._below: set[tuple[int, int]] = set()  # a restricted relation, and one below it
        self._hidden: dict[
            tuple[str, int], tuple[DatasetConfig, frozenset[int]]
        ] = {}  # by dataset and relation: attnums

    def closes(self, relation: int, *, by_pattern: bool) -> bool:
        """Whether it is not offered as it is. What is below a restricted relation may be offered by its own name."""
        return relation in self._names or (by_pattern and any(member == relation for _, member in self._below))

    def still_hidden(
        self, dataset: str, relation: int, offer: DatasetConfig, numbers: Mapping[str, int], offered: Collection[str]
    ) -> set[str]:
        """Of the columns `offered` by name those that the same entry of the file has hidden under another name.

        `numbers` are the numbers (attnum) of all columns of the relation.
        """
        before, numbers_before = self._hidden.get((dataset, relation), (offer, frozenset[int]()))
        hidden = {number for name, number in numbers.items() if name not in offered}
        hidden |= numbers_before if before == offer else set()
        self._hidden[dataset, relation] = offer, frozenset(hidden)
        return {name for name in offered if numbers[name] in hidden}

    async def note(self, connection: Connection, restricted: Mapping[int, str], named: Collection[str]) -> None:
        """The file restricts these relations now, by their names in it; `named` are all that it restricts."""
        gone = {oid: name for oid, name in self._names.items() if oid not in restricted and name not in named}
        still = {row["oid"] for row in await connection.fetch(STILL_NAMED, list(gone), list(gone.values()))}
        self._names = {oid: name for oid, name in self._names.items() if oid not in still} | dict(restricted)
        below = {(row["root"], row["member"]) for row in await connection.fetch(BELOW, list(self._names))}
        self._below = {pair for pair in self._below if pair[0] in self._names} | below
