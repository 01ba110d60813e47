"""The cause of a failed export: in its status for its user, and in one line of the log for the operator."""

import logging
from dataclasses import replace
from datetime import timedelta

import aiohttp
import pytest

from streamer.config import Names
from streamer.jobs.store import MAX_ATTEMPTS
from streamer.jobs.times import JobTimes
from streamer.server.tuning import Tuning
from streamer.source.cursors.block_ranges import BlockRange, ReorderBuffer
from streamer.source.cursors.blocks import BlockReading
from streamer.source.source import CursorChoice
from tests.conftest import Serve
from tests.exporting import create
from tests.integration.sources import Plain, acting, every_cursor
from tests.integration.test_blocks import SMALL_RANGES, WORKER_LOST

SESSIONS = """
    CREATE FUNCTION helps() RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER AS $$
        SELECT EXISTS (
            SELECT FROM pg_stat_activity leader JOIN pg_stat_activity own ON own.pid = pg_backend_pid()
            WHERE leader.datname = own.datname AND leader.application_name = 'streamer' AND leader.query LIKE 'COPY%'
              AND leader.xact_start < own.xact_start
        )
    $$;
    CREATE FUNCTION leave() RETURNS boolean LANGUAGE sql VOLATILE SECURITY DEFINER AS
        $$ SELECT pg_terminate_backend(pg_backend_pid()) $$;
"""
SLOW_LEAD = "IF n % 5 = 0 AND NOT helps() THEN PERFORM pg_sleep(0.005); END IF"
LEAD_ENDS = f"{SLOW_LEAD}; IF n >= 50 AND NOT helps() THEN PERFORM leave(); END IF"
HELPER_ENDS = f"{SLOW_LEAD}; IF helps() THEN PERFORM leave(); END IF"
DIVIDES = "IF n = 1000 THEN PERFORM 1 / (n - 1000); END IF"
ENDED = "terminating connection due to administrator command"  # the last message of a terminated session


def lines(caplog: pytest.LogCaptureFixture, beginning: str) -> list[str]:
    """The log's lines about exports, each of which must be one line without a traceback."""
    found = [record for record in caplog.records if record.getMessage().startswith(beginning)]
    assert all(record.exc_info is None and "\n" not in record.getMessage() for record in found)
    assert all(record.levelno == logging.WARNING for record in found)
    return [record.getMessage() for record in found]


@pytest.mark.parametrize(
    ("act", "attempts", "losses", "error", "code"),
    [
        (LEAD_ENDS, MAX_ATTEMPTS, 0, f"the connection to the database was lost: {ENDED}", "57P01"),
        (HELPER_ENDS, MAX_ATTEMPTS, 1, f"the connection to the database was lost: {ENDED}", "57P01"),
        (DIVIDES, 1, 0, "PostgreSQL: division by zero", "22012"),
    ],
    ids=["lead", "worker", "division"],
)
async def test_an_export_on_several_connections_reports_the_first_failure(
    serve: Serve,
    database: str,
    plain: Plain,
    session: aiohttp.ClientSession,
    caplog: pytest.LogCaptureFixture,
    *,
    role: str,
    act: str,
    attempts: int,
    losses: int,
    error: str,
    code: str,
) -> None:
    await plain.execute(SESSIONS)
    await plain.execute(acting(act))
    server = await serve(
        tuning=Tuning(
            jobs=JobTimes(retry_delay=timedelta(milliseconds=10)), reading=replace(SMALL_RANGES, first_pause=0.01)
        ),
        source_database_url=database,
        datasets=Names(("acting",)),
        dataset_role=role,
        export_method=CursorChoice.BLOCKS,
        export_connections=2,
    )
    export = await create(session, server.url, dataset="acting", columns="n")
    status = await export.until("failed")
    assert (status["error"], status["attempts"]) == (error, attempts)
    (failed,) = lines(caplog, f"export {export.id} failed: ")
    assert failed.startswith(f"export {export.id} failed: {error}")
    assert f"(SQLSTATE {code})" in failed
    again = lines(caplog, f"export {export.id} is run again ")
    assert len(again) == attempts - 1
    assert all(ENDED in line for line in again)
    assert bool(caplog.text.count(WORKER_LOST)) == bool(losses)
    assert "Traceback" not in caplog.text


REFUSED = {
    "division": ("1 / (n - 2)", "division by zero", "22012"),
    "cast": ("CASE n WHEN 2 THEN 'two' ELSE n::text END::int", 'invalid input syntax for type integer: "two"', "22P02"),
    "permission": ("closed()", "permission denied for function closed", "42501"),
    "hint": ("hinting(n)", "refused", "P0001"),
}
FUNCTIONS = """
    CREATE FUNCTION closed() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
    REVOKE ALL ON FUNCTION closed() FROM PUBLIC;
    CREATE FUNCTION hinting(n int) RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN RAISE 'refused' USING HINT = 'of two' || E'\n' || 'lines'; END $$;
    GRANT SELECT ON refused TO PUBLIC;
"""


@every_cursor
@pytest.mark.parametrize("name", REFUSED)
async def test_a_statement_that_fails_is_one_line_of_the_log(
    serve: Serve,
    database: str,
    plain: Plain,
    session: aiohttp.ClientSession,
    caplog: pytest.LogCaptureFixture,
    *,
    role: str,
    name: str,
    choice: CursorChoice,
) -> None:
    expression, sentence, code = REFUSED[name]
    await plain.execute("CREATE TABLE refused AS SELECT n FROM generate_series(1, 3) n")
    await plain.execute(FUNCTIONS)
    await plain.execute(f"CREATE FUNCTION refuse(n int) RETURNS int LANGUAGE sql AS $$ SELECT {expression} $$")
    await plain.execute("CREATE POLICY refusing ON refused USING (refuse(n) > 0)")
    await plain.execute("ALTER TABLE refused ENABLE ROW LEVEL SECURITY")
    server = await serve(
        source_database_url=database, datasets=Names(("refused",)), dataset_role=role, export_method=choice
    )
    export = await create(session, server.url, dataset="refused")
    status = await export.until("failed")
    assert (status["error"], status["attempts"]) == (f"PostgreSQL: {sentence}", 1)
    (line,) = lines(caplog, f"export {export.id} ")
    assert line.startswith(f"export {export.id} failed: PostgreSQL: {sentence}")
    assert f"(SQLSTATE {code})" in line
    assert WORKER_LOST not in caplog.text
    assert "Traceback" not in caplog.text


async def test_an_internal_error_refers_to_the_log(
    serve: Serve, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    class BreakingDown(ReorderBuffer):
        def begin(self, block_range: BlockRange) -> None:
            raise RuntimeError("the reason")

    server = await serve(tuning=Tuning(reading=BlockReading(buffer=BreakingDown)), export_method=CursorChoice.BLOCKS)
    export = await create(session, server.url)
    assert (await export.until("failed"))["error"] == "an internal error, which the server's log describes"
    assert "RuntimeError: the reason" in caplog.text
    assert "Traceback" in caplog.text
