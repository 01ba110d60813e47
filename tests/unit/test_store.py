"""The table of exports, on a real PostgreSQL: what each statement changes, and what it leaves alone."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from streamer.errors import NotFound, StartError, Unavailable
from streamer.jobs.queue import Queue
from streamer.jobs.store import MAX_ATTEMPTS, MAX_PAGE_SPECS, MIGRATIONS, Store
from streamer.jobs.table import STATEMENTS
from streamer.jobs.times import JobTimes
from streamer.model import (
    EVERYBODY,
    OPEN,
    SPEC_VERSION,
    TRANSITIONS,
    ExportFilter,
    ExportRequest,
    ExportSpec,
    Principal,
    Progress,
    State,
)
from streamer.postgres.driver import Pool
from streamer.spool.spool import Sealed
from tests.unit.process import HOUR, SPEC, until_locked_out

FOLDER, OTHER_FOLDER = UUID(int=1), UUID(int=2)
NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
SEALED = Sealed(length=5, rows=1, sha256=b"digest")
SECOND = timedelta(seconds=1)

Call = Callable[[Store, UUID], Awaitable[object]]

CALLS: dict[str, Call] = {
    "wait_for_source": lambda store, export_id: store.wait_for_source(export_id, 0, SECOND),
    "requeue": lambda store, export_id: store.requeue(export_id, 0, SECOND, 0.0),
    "release": lambda store, export_id: store.release(export_id, 0, 0.0),
    "reclaim": lambda store, export_id: store.reclaim([], []),
    "complete": lambda store, export_id: store.complete(export_id, 0, SEALED, 7, truncated=True, snapshot_at=NOW),
    "fail": lambda store, export_id: store.fail(export_id, 0, "the reason", 0.0),
    "fail_orphans": lambda store, export_id: store.fail_orphans([], [], served="served", exhausted="exhausted"),
    "cancel": lambda store, export_id: store.cancel(export_id, EVERYBODY, 0.0),
}
ORPHANS = ("reclaim", "fail_orphans")  # statements for the exports of dead servers


@pytest.fixture
def store(pool: Pool) -> Store:
    return Store(pool, uuid4(), JobTimes())


@pytest.fixture
def other(pool: Pool) -> Store:
    """The store of another server."""
    return Store(pool, uuid4(), JobTimes())


async def insert(store: Store, request: ExportRequest, principal: Principal = OPEN, key: str | None = None) -> UUID:
    """The id of a new row, which waits."""
    queue = Queue(store._pool, store._server_id, JobTimes(), folder=FOLDER, capacity=1000)
    export_id = uuid4()
    assert await queue.accept(export_id, request, principal, key, begin=False) is not None
    return export_id


async def inserted(store: Store, spec: ExportSpec = SPEC, **columns: object) -> UUID:
    """The id of a new row, of which some columns are set. If it is processing, it is run by the server of the store."""
    export_id = await insert(store, ExportRequest(spec=spec))
    if columns.get("state") not in (None, "pending"):
        columns = {"server_id": store._server_id, "lease_until": NOW + 100_000 * HOUR, **columns}
    await change(store, export_id, **columns)
    return export_id


async def change(store: Store, export_id: UUID, **columns: object) -> None:
    for name, value in columns.items():
        await store._pool.execute(f"UPDATE streamer.exports SET {name} = $2 WHERE id = $1", export_id, value)


async def row(store: Store, export_id: UUID) -> Any:
    return await store._pool.fetchrow("SELECT * FROM streamer.exports WHERE id = $1", export_id)


@pytest.mark.parametrize("name", CALLS)
async def test_a_statement_leaves_only_the_states_of_the_table_of_transitions(store: Store, name: str) -> None:
    transition = TRANSITIONS[name]
    for state in State:
        export_id = await inserted(store, state=state, served=name == "fail_orphans")
        if name in ORPHANS:
            await change(store, export_id, lease_until=NOW)
        changed = bool(await CALLS[name](store, export_id))
        after = State((await row(store, export_id))["state"])
        assert (changed, after) == ((True, transition.enters) if state in transition.leaves else (False, state)), state


@pytest.mark.parametrize("name", sorted(set(CALLS) - {*ORPHANS, "cancel"}))
async def test_a_statement_changes_no_row_of_another_server(store: Store, other: Store, name: str) -> None:
    state = min(TRANSITIONS[name].leaves)
    export_id = await inserted(other, state=state)
    assert not await CALLS[name](store, export_id)
    assert (await row(store, export_id))["state"] == state


@pytest.mark.parametrize("name", ["requeue", "release", "wait_for_source"])
async def test_an_export_that_was_served_is_not_run_again(store: Store, name: str) -> None:
    export_id = await inserted(store, state="processing", served=True)
    assert not await CALLS[name](store, export_id)


async def test_a_row_has_what_was_asked_for(store: Store) -> None:
    export_id = await insert(store, ExportRequest(spec=SPEC, label="Ünï", ttl=HOUR), key="key")
    export = await store.get(export_id, EVERYBODY)
    assert (export.spec, export.label, export.ttl, export.folder) == (SPEC, "Ünï", HOUR, FOLDER)
    assert (export.state, export.attempts, export.epoch, export.served) == (State.PENDING, 0, 0, False)
    assert (await row(store, export_id))["spec_version"] == SPEC_VERSION
    assert await store.by_key(OPEN, "key") == export
    assert await store.by_key(OPEN, "other") is None


async def test_progress_is_noted_and_the_percentage_never_falls(store: Store) -> None:
    export_id = await inserted(store, state="processing", waiting_for="source")
    for percentage in (50.0, 40.0):
        progress = Progress(total_rows=10, processed_rows=4, bytes=99, percentage=percentage, rows_per_second=3)
        assert await store.note_progress(export_id, 0, NOW, progress)
    export = await store.get(export_id, EVERYBODY)
    assert export.progress == Progress(total_rows=10, processed_rows=4, bytes=99, percentage=50.0, rows_per_second=3)
    assert (export.snapshot_at, export.waiting_for) == (NOW, None)
    await change(store, export_id, state="cancelled")
    assert not await store.note_progress(export_id, 0, NOW, Progress())


@pytest.mark.parametrize(("state", "noted"), [("processing", True), ("completed", True), ("pending", False)])
async def test_served_is_noted_of_a_run_and_of_its_end(store: Store, state: str, noted: bool) -> None:
    export_id = await inserted(store, state=state)
    assert await store.note_served(export_id, 0) is noted
    assert (await store.get(export_id, EVERYBODY)).served is noted


async def test_a_completed_row_has_the_figures_of_the_file(store: Store) -> None:
    export_id = await inserted(store, state="processing")
    assert await store.complete(export_id, 0, SEALED, 7, truncated=True, snapshot_at=NOW)
    export = await store.get(export_id, EVERYBODY)
    assert export.progress == Progress(
        total_rows=1, estimated=False, processed_rows=1, bytes=5, percentage=100, rows_per_second=7
    )
    assert (export.sha256, export.truncated, export.snapshot_at) == (b"digest", True, NOW)
    assert export.finished_at is not None
    assert export.final


async def test_an_export_is_run_again_only_so_many_times(store: Store) -> None:
    export_id = await inserted(store, state="processing", attempts=MAX_ATTEMPTS - 1, bytes=9, snapshot_at=NOW)
    assert await store.requeue(export_id, 0, SECOND, 30.0)
    export = await store.get(export_id, EVERYBODY)
    assert (export.progress.bytes, export.snapshot_at, export.progress.percentage) == (0, None, 30.0)
    await change(store, export_id, state="processing", attempts=MAX_ATTEMPTS)
    assert not await store.requeue(export_id, 0, SECOND, 30.0)


async def test_waiting_for_the_source_counts_no_attempt(store: Store) -> None:
    export_id = await inserted(store, state="processing", attempts=1, started_at=NOW)
    assert await store.wait_for_source(export_id, 0, timedelta())
    export = await store.get(export_id, EVERYBODY)
    assert (export.attempts, export.started_at, export.waiting_for) == (0, None, "source")


@pytest.mark.parametrize(("name", "attempts"), [("release", 1), ("requeue", 2), ("wait_for_source", 1), ("reclaim", 2)])
async def test_an_export_that_waits_again_belongs_to_no_server(store: Store, name: str, attempts: int) -> None:
    export_id = await inserted(store, state="processing", attempts=2, percentage=30.0, bytes=9)
    if name == "reclaim":
        await change(store, export_id, lease_until=NOW)
    assert await CALLS[name](store, export_id)
    after = await row(store, export_id)
    assert (after["state"], after["attempts"], after["percentage"], after["bytes"]) == ("pending", attempts, 30.0, 0)
    assert (after["server_id"], after["lease_until"]) == (None, None)


async def test_a_failed_and_a_cancelled_row_keep_the_highest_percentage(store: Store) -> None:
    failed, cancelled = [await inserted(store, state="processing", percentage=20.0) for _ in range(2)]
    assert await store.fail(failed, 0, "the reason", 30.0)
    assert await store.cancel(cancelled, EVERYBODY, 10.0) is not None
    export = await store.get(failed, EVERYBODY)
    assert (export.error, export.progress.percentage) == ("the reason", 30.0)
    export = await store.get(cancelled, EVERYBODY)
    assert export.progress.percentage == 20.0
    assert export.removed_at is not None


async def test_a_removal_is_noted_once_and_only_of_an_export_that_has_ended(store: Store) -> None:
    completed, running = await inserted(store, state="completed"), await inserted(store, state="processing")
    assert await store.note_removed([completed, running]) == [completed]
    assert await store.note_removed([completed, running]) == []
    assert (await store.get(running, EVERYBODY)).removed_at is None


async def test_leases_are_renewed_for_the_runs_that_this_server_knows(store: Store, other: Store) -> None:
    running, unknown = [await inserted(store, state="processing", lease_until=NOW) for _ in range(2)]
    foreign = await inserted(other, state="processing", lease_until=NOW)
    waiting = await inserted(store, lease_until=NOW)
    await store.renew_leases([running, foreign, waiting])
    renewed = {each for each in (running, unknown, foreign, waiting) if (await row(store, each))["lease_until"] > NOW}
    assert renewed == {running}


async def test_lost_exports_have_ended_or_are_run_by_another_server(store: Store, other: Store) -> None:
    waiting, mine = await inserted(store), await inserted(store, state="processing")
    ended, taken = await inserted(store, state="cancelled"), await inserted(other, state="processing")
    assert await store.lost([waiting, mine, ended, taken]) == {ended: "cancelled", taken: "processing"}


async def test_orphans_that_may_run_wait_again_and_the_others_fail(store: Store, other: Store) -> None:
    async def orphan(**columns: object) -> UUID:
        export_id = await inserted(other, state="processing", lease_until=NOW)
        await change(other, export_id, **columns)
        return export_id

    held, expired = await orphan(lease_until=NOW + 100_000 * HOUR), await orphan()
    served, exhausted = await orphan(served=True), await orphan(attempts=MAX_ATTEMPTS)
    running, newer, damaged = await orphan(), await orphan(spec_version=SPEC_VERSION + 1), await orphan(spec="{}")
    failed = await store.fail_orphans([], [running], served="served", exhausted="exhausted")
    assert {(each.id, each.error) for each in failed} == {(served, "served"), (exhausted, "exhausted")}
    assert await store.reclaim([], [running]) == [expired]
    assert await store.reclaim([], [running]) == []
    for each in (held, running, newer, damaged):
        assert (await row(store, each))["state"] == "processing"
    assert await store.reclaim([other._server_id], [running]) == [held]


async def test_a_use_is_noted_to_the_minute(store: Store) -> None:
    export_id = await inserted(store, state="completed", used_at=NOW)
    await store.note_used(export_id)
    used_at = (await row(store, export_id))["used_at"]
    assert used_at > NOW
    await store.note_used(export_id)
    assert (await row(store, export_id))["used_at"] == used_at


async def test_the_shorter_of_both_times_to_live_expires_an_export(store: Store) -> None:
    now = datetime.now(UTC)
    common, own = await completed(store, finished_at=now - 3 * HOUR), await completed(store, finished_at=now - HOUR)
    await completed(store, finished_at=now - HOUR, ttl=2 * HOUR)
    read = await completed(store, finished_at=now - 3 * HOUR)
    await completed(store, finished_at=now - 3 * HOUR, folder=OTHER_FOLDER)
    await change(store, own, ttl=timedelta(minutes=1))
    assert set(await store.expired(FOLDER, 2 * HOUR, [read], 10)) == {common, own}
    assert len(await store.expired(FOLDER, 2 * HOUR, [read], 1)) == 1


async def completed(store: Store, **columns: object) -> UUID:
    export_id = await inserted(store, state="completed", folder=FOLDER, finished_at=NOW)
    await change(store, export_id, **columns)
    return export_id


async def test_the_least_recently_used_exports_come_first_and_page_by_page(store: Store) -> None:
    finished, used = await completed(store, finished_at=NOW + SECOND), await completed(store, used_at=NOW + HOUR)
    oldest, read = await completed(store), await completed(store)
    first = await store.least_used(FOLDER, None, [read], 2)
    assert first == [(NOW, oldest), (NOW + SECOND, finished)]
    assert await store.least_used(FOLDER, first[-1], [read], 2) == [(NOW + HOUR, used)]
    assert await store.least_used(OTHER_FOLDER, None, [], 2) == []


async def test_rows_without_a_file_are_found_by_the_time_of_their_removal_and_deleted(store: Store) -> None:
    now = datetime.now(UTC)
    removed = await completed(store, removed_at=now - 2 * HOUR)
    failed = await inserted(store, state="failed", finished_at=now - 3 * HOUR)
    young, kept = await completed(store, removed_at=now), await completed(store)
    first = await store.without_file(FOLDER, HOUR, None, 1)
    assert first == [(now - 3 * HOUR, failed)]
    assert await store.without_file(FOLDER, HOUR, first[-1], 10) == [(now - 2 * HOUR, removed)]
    assert await store.delete_rows([removed, failed, kept]) == 2
    assert [each.id for each in (await store.page(EVERYBODY, ExportFilter(), None, 10))[0]] == [kept, young]


async def test_only_completed_rows_without_a_folder_are_located(store: Store) -> None:
    unknown, known = await completed(store, folder=None), await completed(store, folder=OTHER_FOLDER)
    running = await inserted(store, state="processing", folder=None)
    await store.locate(FOLDER, [unknown, known, running])
    folders = [(await store.get(each, EVERYBODY)).folder for each in (unknown, known, running)]
    assert folders == [FOLDER, OTHER_FOLDER, None]


async def test_garbage_are_files_that_no_download_can_need(store: Store) -> None:
    kept, removed = await completed(store, bytes=5), await completed(store, removed_at=NOW)
    failed, running = await inserted(store, state="failed"), await inserted(store, state="processing", folder=FOLDER)
    elsewhere, copied = [await completed(store, folder=OTHER_FOLDER, bytes=size) for size in (5, 6)]
    found = {kept: 9, removed: 5, failed: 5, running: 5, elsewhere: 9, copied: 6, uuid4(): 5}
    assert set(await store.garbage(FOLDER, list(found), list(found.values()))) == {removed, failed, elsewhere}


async def test_unknown_files_have_no_row(store: Store) -> None:
    stranger = uuid4()
    assert await store.unknown([await inserted(store), stranger]) == [stranger]


async def test_a_page_has_the_newest_exports_and_says_whether_there_are_more(store: Store) -> None:
    exports = [await store.get(await inserted(store), EVERYBODY) for _ in range(3)]
    newest, more = await store.page(EVERYBODY, ExportFilter(), None, 2)
    assert (newest, more) == ([exports[2], exports[1]], True)
    place = (newest[-1].created_at, newest[-1].id)
    assert await store.page(EVERYBODY, ExportFilter(), place, 2) == ([exports[0]], False)
    assert await store.page(EVERYBODY, ExportFilter(), (exports[0].created_at, exports[0].id), 2) == ([], False)


async def test_a_page_of_large_requests_is_short(store: Store) -> None:
    large = ExportSpec(dataset="users", columns=("x" * MAX_PAGE_SPECS,))
    for _ in range(3):
        await inserted(store, large)
    page, more = await store.page(EVERYBODY, ExportFilter(), None, 3)
    assert (len(page), more) == (1, True)


async def test_a_page_is_selected_by_state_label_and_dataset(store: Store) -> None:
    request = ExportRequest(spec=ExportSpec(dataset="orders", columns=("id",)), label="STRASSE")
    wanted = await insert(store, request)
    await inserted(store, state="failed")
    for selection in (
        ExportFilter(states=(State.PENDING,)),
        ExportFilter(label="straß"),
        ExportFilter(dataset="orders"),
    ):
        assert [each.id for each in (await store.page(EVERYBODY, selection, None, 9))[0]] == [wanted]


async def test_each_table_has_one_identity(store: Store, other: Store) -> None:
    assert await store.identity() == await other.identity()


async def test_a_table_at_this_version_is_left_as_it_is(store: Store, pool: Pool) -> None:
    export_id = await inserted(store)
    await store.migrate()
    assert (await store.get(export_id, EVERYBODY)).id == export_id
    assert [
        each["version"] for each in await pool.fetch("SELECT version FROM streamer.migrations ORDER BY 1")
    ] == sorted(MIGRATIONS)


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("INSERT INTO streamer.migrations VALUES (1000)", r"newer version of streamer \(migration 1000"),
        ("DELETE FROM streamer.migrations WHERE version IN (2, 3)", "but not 2, 3"),
    ],
    ids=["newer", "incomplete"],
)
async def test_a_table_that_no_known_version_has_made_is_not_used(
    store: Store, pool: Pool, statement: str, sentence: str
) -> None:
    await pool.execute(statement)
    with pytest.raises(StartError, match=sentence):
        await store.migrate()


async def test_migrations_wait_for_those_of_another_server(store: Store, pool: Pool) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", 0x73747265616D)
        migrating = asyncio.create_task(store.migrate())
        await until_locked_out(pool)
        assert not migrating.done()
    await migrating


async def test_a_table_that_is_locked_is_unavailable(pool: Pool) -> None:
    store = Store(pool, uuid4(), JobTimes(statement_timeout=0.1))
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE streamer.exports")
        with pytest.raises(Unavailable, match="does not answer"):
            await store.get(uuid4(), EVERYBODY)


@pytest.mark.parametrize("condition", ["serialization_failure", "deadlock_detected"], ids=["serialization", "deadlock"])
async def test_a_statement_that_lost_against_a_concurrent_one_is_tried_again(
    store: Store, pool: Pool, condition: str
) -> None:
    await failing(pool, condition, times=2)
    await insert(store, ExportRequest(spec=SPEC))
    assert await pool.fetchval("SELECT last_value FROM tries") == 3


async def failing(pool: Pool, condition: str, times: int) -> None:
    """Makes the next insertions fail. A sequence counts them, because it is not rolled back."""
    await pool.execute(
        f"""
        CREATE SEQUENCE tries;
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('tries') <= {times} THEN RAISE {condition}; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER fail BEFORE INSERT ON streamer.exports FOR EACH ROW EXECUTE FUNCTION fail();
        """
    )


@pytest.mark.parametrize("condition", ["read_only_sql_transaction", "insufficient_privilege", "disk_full"])
async def test_a_table_that_cannot_be_written_is_unavailable_after_one_try(
    store: Store, pool: Pool, condition: str
) -> None:
    await failing(pool, condition, times=9)
    with pytest.raises(Unavailable, match="cannot be used") as error:
        await insert(store, ExportRequest(spec=SPEC))
    assert isinstance(error.value.__cause__, asyncpg.PostgresError)
    assert await pool.fetchval("SELECT last_value FROM tries") == 1


async def test_an_error_that_will_not_pass_is_no_lack_of_the_database(store: Store, pool: Pool) -> None:
    await pool.execute("ALTER TABLE streamer.exports RENAME TO away")
    with pytest.raises(asyncpg.UndefinedTableError):
        await store.get(uuid4(), EVERYBODY)


async def test_a_cancellation_is_raised_when_the_connection_breaks_at_the_same_time(store: Store, pool: Pool) -> None:
    class Breaking(Store):
        async def _fetch(self, connection: Any, statement: str, *arguments: object) -> Any:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ConnectionResetError from None

    task = asyncio.create_task(Breaking(pool, uuid4(), JobTimes()).get(uuid4(), EVERYBODY))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_database_that_cannot_be_written_is_a_start_error_with_a_remedy(store: Store, pool: Pool) -> None:
    name = await pool.fetchval("SELECT current_database()")
    await pool.execute("DROP SCHEMA streamer CASCADE")
    await pool.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await pool.expire_connections()
    with pytest.raises(StartError) as error:
        await store.migrate()
    assert str(error.value) == (
        "the table of exports cannot be created: cannot execute CREATE SCHEMA in a read-only transaction;"
        " keep the table in another database, and set SOURCE_DATABASE_URL to this one"
    )


async def test_a_role_without_rights_is_told_what_to_grant(store: Store, pool: Pool) -> None:
    name = await pool.fetchval("SELECT current_database()")
    role = f"role_of_{name}"
    await pool.execute("DROP SCHEMA streamer CASCADE")
    await pool.execute(f"CREATE ROLE {role}")
    try:
        await pool.execute(f"ALTER DATABASE {name} SET role = {role}")
        await pool.expire_connections()
        with pytest.raises(StartError, match=f"; GRANT CREATE ON DATABASE {name} TO {role}, or keep the table in"):
            await store.migrate()
    finally:
        async with pool.acquire() as connection:
            await connection.execute(f"SET ROLE NONE; ALTER DATABASE {name} RESET role; DROP ROLE {role}")


REPORTS = Principal(name="key:reports")


async def test_the_exports_of_a_principal_are_its_own(store: Store) -> None:
    theirs, ours = await inserted(store), await insert(store, ExportRequest(spec=SPEC), REPORTS)
    assert (await store.get(ours, REPORTS)).principal == "key:reports"
    for viewer, other in ((REPORTS, theirs), (OPEN, ours)):
        with pytest.raises(NotFound, match=str(other)):
            await store.get(other, viewer)
        assert await store.cancel(other, viewer, 0.0) is None
    assert [each.id for each in (await store.page(REPORTS, ExportFilter(), None, 9))[0]] == [ours]
    assert [each.id for each in (await store.page(EVERYBODY, ExportFilter(), None, 9))[0]] == [ours, theirs]
    assert await store.cancel(ours, REPORTS, 0.0) is not None


async def test_a_key_belongs_to_its_principal(store: Store) -> None:
    for principal in (OPEN, REPORTS):
        export_id = await insert(store, ExportRequest(spec=SPEC), principal, "key")
        found = await store.by_key(principal, "key")
        assert found is not None
        assert found.id == export_id


RUN_CALLS: dict[str, Call] = {
    **{name: CALLS[name] for name in ("wait_for_source", "requeue", "release", "complete", "fail")},
    "note_progress": lambda store, export_id: store.note_progress(export_id, 0, NOW, Progress()),
    "note_served": lambda store, export_id: store.note_served(export_id, 0),
}
"""The statements of a run, all of them with the first epoch."""


@pytest.mark.parametrize("name", RUN_CALLS)
async def test_a_statement_of_a_run_changes_nothing_once_the_export_was_claimed_again(store: Store, name: str) -> None:
    export_id = await inserted(store, state="processing", epoch=1)
    before = await row(store, export_id)
    assert not await RUN_CALLS[name](store, export_id)
    assert await row(store, export_id) == before
    await change(store, export_id, epoch=0)
    assert await RUN_CALLS[name](store, export_id)


@pytest.mark.parametrize("name", RUN_CALLS)
def test_every_statement_of_a_run_names_its_server_and_its_epoch(name: str) -> None:
    assert "WHERE id = $1 AND server_id = $2 AND epoch = $3 AND state" in STATEMENTS[name]
