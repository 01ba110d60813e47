"""Does PostgreSQL read a text of which values.py is not certain? Asked before any job exists.

The planner is asked for the condition itself, in a session as that of the export: what the type's input function
refuses there would fail the job, and its message is the one that says why. Nothing is read from the relation.

A text with a character that the encoding of the database lacks would fail the job, too, whatever it is for: a value, a
part of one, or what stands for NULL.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress

import asyncpg

from streamer.errors import Unavailable
from streamer.model import Condition, Operator
from streamer.postgres.driver import Connection, Pool
from streamer.postgres.failures import one_line
from streamer.source.catalog.values import is_certain
from streamer.source.dataset import Dataset
from streamer.source.query.plan import explain
from streamer.source.query.query import compose_condition
from streamer.source.session.snapshot import open_snapshot

TIMEOUT = 5.0  # seconds for an answer
SEARCHES = (Operator.CONTAINS, Operator.STARTSWITH)  # their values are parts of texts, whatever the type
DATA_EXCEPTION = "22"  # the class of what input functions say (PostgreSQL documentation, appendix A)
ITS_OWN_SYNTAX = ("42601", "42602")  # of a type that is a small language: jsonpath, tsquery
UNANSWERED = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError)


class WrongValueError(Exception):
    """PostgreSQL does not read what `condition` says; the sentence is its own."""

    def __init__(self, condition: Condition, sentence: str) -> None:
        super().__init__(sentence)
        self.condition = condition


class WrongNullError(Exception):
    """PostgreSQL cannot write what stands for NULL; the sentence is its own."""


class ValueCheck:
    """Asks on connections beside those of the exports."""

    def __init__(self, pool: Pool, role: str | None) -> None:
        self._pool = pool
        self._role = role

    async def check(self, dataset: Dataset, conditions: Iterable[Condition], null: str) -> None:
        """`null` is what stands for NULL. Raises WrongValueError, WrongNullError, and Unavailable if the
        database does not answer.

        What it says of anything but a value, it says again of the export, whose failure that is.
        """
        asked = [condition for condition in conditions if _is_asked(dataset, condition)]
        if not asked and null.isascii():
            return
        try:
            with suppress(asyncpg.SyntaxOrAccessError):
                async with asyncio.timeout(TIMEOUT), open_snapshot(self._pool, role=self._role) as snapshot:
                    await check_values(snapshot.connection, dataset, asked)
                    await _check_null(snapshot.connection, null)
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


async def _check_null(connection: Connection, null: str) -> None:
    try:
        await connection.fetchval("SELECT $1::pg_catalog.text", null)
    except asyncpg.DataError as error:
        raise WrongNullError(one_line(error.args[0])) from error


def _is_asked(dataset: Dataset, condition: Condition) -> bool:
    if condition.operator is Operator.ISNULL:
        return False
    if condition.operator in SEARCHES:
        return not all(value.isascii() for value in condition.values)
    return not all(is_certain(dataset.known[condition.column], value) for value in condition.values)


def _is_of_a_value(error: asyncpg.PostgresError) -> bool:
    code = str(error.sqlstate)
    return code.startswith(DATA_EXCEPTION) or code in ITS_OWN_SYNTAX
