"""The relations that the file of datasets restricts or has restricted since the process started.

The file restricts a relation by name, and a pattern in DATASETS finds relations by name, but a name may pass from one
relation to another: after `ALTER TABLE a RENAME TO old; ALTER TABLE b RENAME TO a` the file restricts b, and the
pattern finds old, without its hidden columns and forced filters. So relations are remembered by their oids, and a
relation that was restricted once is not offered without restrictions. The same holds for relations that a pattern finds
below it in the inheritance tree, because their rows are rows of the restricted one. A partition that is detached
becomes an ordinary table, so descendants are remembered, too.

Columns are remembered by their numbers, for the same reason: after `ALTER TABLE a RENAME card TO old` and a new column
`card`, the file hides the new one, and `old` stays hidden.

Only the operator lifts a restriction: by an entry for the relation in the file, or by removing the entry that was
there, if its name still belongs to the same relation. A process that starts remembers nothing.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from streamer.postgres.driver import Connection
from streamer.postgres.statements import read_sql
from streamer.source.catalog.configuration import DatasetConfig

PACKAGE = "streamer.source.catalog"
DESCENDANTS = read_sql(PACKAGE, "descendants")
STILL_NAMED = read_sql(PACKAGE, "still_named")


class Restrictions:
    def __init__(self) -> None:
        self._names: dict[int, str] = {}  # of the restricted relations by oid, as the file had them
        self._descendants: set[tuple[int, int]] = set()  # the oids of a restricted relation and of one below it
        self._hidden: dict[tuple[str, int], _HiddenColumns] = {}  # by dataset and relation

    def forbids(self, relation: int, *, by_pattern: bool) -> bool:
        """Whether a relation must not be offered without restrictions.

        A descendant of a restricted relation may be offered by its own name, but not by a pattern.
        """
        return relation in self._names or (by_pattern and any(member == relation for _, member in self._descendants))

    def still_hidden(
        self, dataset: str, relation: int, config: DatasetConfig, numbers: Mapping[str, int], offered: Collection[str]
    ) -> set[str]:
        """Returns the `offered` columns that the same entry of the file has hidden under another name.

        `numbers` has the number (attnum) of each column of the relation.
        """
        known = self._hidden.get((dataset, relation))
        hidden = {number for name, number in numbers.items() if name not in offered}
        hidden |= known.numbers if known is not None and known.config == config else set()
        self._hidden[dataset, relation] = _HiddenColumns(config, frozenset(hidden))
        return {name for name in offered if numbers[name] in hidden}

    async def update(self, connection: Connection, restricted: Mapping[int, str], named: Collection[str]) -> None:
        """Remembers the relations that the file restricts now, by oid and name; `named` has all names it restricts."""
        gone = {oid: name for oid, name in self._names.items() if oid not in restricted and name not in named}
        lifted = {row["oid"] for row in await connection.fetch(STILL_NAMED, list(gone), list(gone.values()))}
        self._names = {oid: name for oid, name in self._names.items() if oid not in lifted} | dict(restricted)
        found = {(row["root"], row["member"]) for row in await connection.fetch(DESCENDANTS, list(self._names))}
        self._descendants = {pair for pair in self._descendants if pair[0] in self._names} | found


class _HiddenColumns(NamedTuple):
    """The numbers of the columns that an entry of the file has hidden."""

    config: DatasetConfig
    numbers: frozenset[int]
