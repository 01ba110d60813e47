"""Asks PostgreSQL whether it can read the values of which values.py is not certain, before an export exists.

The planner is asked for a query with the condition itself, in a session as that of the export: a value that the input
function of the type refuses there would fail the export, and its message gives the reason. No rows are read.

A character that the encoding of the database does not have would fail the export, too, in any text: a value, a part of
one, or the text for NULL.
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

CHECK_TIMEOUT = 5.0  # seconds for an answer
SEARCHES = (Operator.CONTAINS, Operator.STARTSWITH)  # their values are parts of texts, of any type
DATA_EXCEPTION = "22"  # the class of errors of input functions (PostgreSQL documentation, appendix A)
SYNTAX_ERRORS = ("42601", "42602")  # of input functions that parse a language: jsonpath, tsquery
UNANSWERED = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError)


class WrongValueError(Exception):
    """PostgreSQL refuses a value of `condition`, with its own message."""

    def __init__(self, condition: Condition, sentence: str) -> None:
        super().__init__(sentence)
        self.condition = condition


class WrongNullError(Exception):
    """PostgreSQL refuses the text for NULL, with its own message."""


class ValueCheck:
    """Checks values on connections beside those of the exports. `timeout` is in seconds."""

    def __init__(self, pool: Pool, role: str | None, *, timeout: float = CHECK_TIMEOUT) -> None:
        self._pool = pool
        self._role = role
        self._timeout = timeout

    async def check(self, dataset: Dataset, conditions: Iterable[Condition], null: str) -> None:
        """Checks the values of `conditions`, and the text for NULL.

        Raises WrongValueError, WrongNullError, and Unavailable if the database does not answer. Other errors are
        ignored here: they will be those of the export.
        """
        uncertain = [condition for condition in conditions if _is_uncertain(dataset, condition)]
        if not uncertain and null.isascii():
            return
        try:
            with suppress(asyncpg.SyntaxOrAccessError):
                async with asyncio.timeout(self._timeout), open_snapshot(self._pool, role=self._role) as snapshot:
                    await check_values(snapshot.connection, dataset, uncertain)
                    await _check_null(snapshot.connection, null)
        except UNANSWERED as error:
            raise Unavailable("the database cannot be queried at the moment") from error


async def check_values(connection: Connection, dataset: Dataset, conditions: Iterable[Condition]) -> None:
    """Checks values in a transaction. Raises WrongValueError, and other errors of the database as they are."""
    for condition in conditions:
        if _is_uncertain(dataset, condition):
            try:
                await explain(connection, await compose_condition(connection, dataset, condition))
            except asyncpg.PostgresError as error:
                if not _is_about_value(error):
                    raise
                raise WrongValueError(condition, one_line(error.args[0])) from error


async def _check_null(connection: Connection, null: str) -> None:
    try:
        await connection.fetchval("SELECT $1::pg_catalog.text", null)
    except asyncpg.DataError as error:
        raise WrongNullError(one_line(error.args[0])) from error


def _is_uncertain(dataset: Dataset, condition: Condition) -> bool:
    if condition.operator is Operator.ISNULL:
        return False
    if condition.operator in SEARCHES:
        return not all(value.isascii() for value in condition.values)
    return not all(is_certain(dataset.known[condition.column], value) for value in condition.values)


def _is_about_value(error: asyncpg.PostgresError) -> bool:
    code = str(error.sqlstate)
    return code.startswith(DATA_EXCEPTION) or code in SYNTAX_ERRORS
