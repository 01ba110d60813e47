"""Does PostgreSQL read a text as a value of a type that values.py does not know? Asked before any job exists.

The planner is asked for the condition itself, in a session as that of the export: what the type's input function
refuses there would fail the job, and its message is the one that says why. Nothing is read from the relation.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress

import asyncpg

from streamer.errors import Unavailable
from streamer.model import Condition, Operator
from streamer.source.catalog import Dataset
from streamer.source.database import Connection, Pool, one_line
from streamer.source.plan import explain
from streamer.source.query import compose_condition
from streamer.source.snapshot import open_snapshot
from streamer.source.values import is_read_here

TIMEOUT = 5.0  # seconds for an answer
WITHOUT_A_TYPE = (Operator.ISNULL, Operator.CONTAINS, Operator.STARTSWITH)  # their values are no values of the type
DATA_EXCEPTION = "22"  # the class of what input functions say (PostgreSQL documentation, appendix A)
ITS_OWN_SYNTAX = ("42601", "42602")  # of a type that is a small language: jsonpath, tsquery
UNANSWERED = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError)


class WrongValueError(Exception):
    """PostgreSQL does not read what `condition` says; the sentence is its own."""

    def __init__(self, condition: Condition, sentence: str) -> None:
        super().__init__(sentence)
        self.condition = condition


class ValueCheck:
    """Asks on connections beside those of the exports."""

    def __init__(self, pool: Pool, role: str | None) -> None:
        self._pool = pool
        self._role = role

    async def check(self, dataset: Dataset, conditions: Iterable[Condition]) -> None:
        """Raises WrongValueError, and Unavailable if the database does not answer.

        What it says of anything but a value, it says again of the export, whose failure that is.
        """
        asked = [condition for condition in conditions if _is_asked(dataset, condition)]
        if not asked:
            return
        try:
            with suppress(asyncpg.SyntaxOrAccessError):
                async with asyncio.timeout(TIMEOUT), open_snapshot(self._pool, role=self._role) as snapshot:
                    await check_values(snapshot.connection, dataset, asked)
        except UNANSWERED as error:
            raise Unavailable("the database cannot be asked at the moment") from error


async def check_values(connection: Connection, dataset: Dataset, conditions: Iterable[Condition]) -> None:
    """Within a transaction. Raises WrongValueError; any other error of the database is not one of a value."""
    for condition in conditions:
        if _is_asked(dataset, condition):
            try:
                await explain(connection, await compose_condition(connection, dataset, condition))
            except asyncpg.PostgresError as error:
                if not _is_of_a_value(error):
                    raise
                raise WrongValueError(condition, one_line(error.args[0])) from error


def _is_asked(dataset: Dataset, condition: Condition) -> bool:
    return condition.operator not in WITHOUT_A_TYPE and not is_read_here(dataset.known[condition.column])


def _is_of_a_value(error: asyncpg.PostgresError) -> bool:
    code = str(error.sqlstate)
    return code.startswith(DATA_EXCEPTION) or code in ITS_OWN_SYNTAX
