"""Admission: what is taken, and what a cancellation or a removal leaves. The table is real where it matters."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from asyncpg import UndefinedTableError

from streamer.errors import InsufficientStorage, KeyReused, NotFound, QueueFull, Unavailable, WrittenByNewer
from streamer.jobs.active import ActiveExport
from streamer.jobs.admission import CANCELLED, Admission
from streamer.jobs.gate import SourceGate
from streamer.jobs.idle_workers import IdleWorkers
from streamer.jobs.queue import Queue
from streamer.jobs.registry import ActiveExports
from streamer.jobs.representations.making import Representations
from streamer.jobs.retention import Retention
from streamer.jobs.store import Store
from streamer.jobs.table import STATEMENTS
from streamer.jobs.tasks import Tasks
from streamer.model import EVERYBODY, OPEN, Bounds, Export, ExportFilter, ExportRequest, Principal, State
from streamer.postgres.driver import Pool
from streamer.protocol.disposition import ContentDescription
from streamer.spool.directory import SpoolDirectory
from tests.polling import until
from tests.unit.process import CAPACITY, HOUR, SPEC, Process, until_locked_out
from tests.unit.spools import soon


class Pages:
    """In the place of the table: counts how many pages are read at once."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0

    async def page(self, *_: object) -> tuple[list[Export], bool]:
        self._now += 1
        self.most = max(self.most, self._now)
        await asyncio.sleep(0)
        self._now -= 1
        return [], False


async def test_pages_of_the_list_are_read_one_at_a_time() -> None:
    """A page is assembled in memory, and may be large."""
    pages = Pages()
    admission = Admission(
        cast("Store", pages),
        cast("Queue", None),
        cast("ActiveExports", None),
        retention=cast("Retention", None),
        representations=cast("Representations", None),
        tasks=Tasks(),
        idle=IdleWorkers(SourceGate()),
    )
    await asyncio.gather(*(admission.page(EVERYBODY, ExportFilter(), None, 20) for _ in range(5)))
    assert pages.most == 1


REQUEST = ExportRequest(spec=SPEC)


async def submitted(process: Process, **options: Any) -> ActiveExport:
    active = await process.admission.submit(REQUEST, OPEN, **options)
    assert isinstance(active, ActiveExport)
    return active


async def test_a_submitted_export_has_a_row_and_a_name_and_wakes_a_worker(process: Process) -> None:
    active = await submitted(process)
    assert process.admission.active(active.id, EVERYBODY) is active
    assert process.idle.woken
    row = await process.row(active.id)
    assert (row["state"], row["server_id"]) == ("pending", None)
    assert active.content == ContentDescription.of(SPEC, row["created_at"])
    assert active.waiting


async def test_a_submitted_export_begins_at_once_on_an_idle_worker(process: Process) -> None:
    idle = asyncio.create_task(process.idle.next())
    await asyncio.sleep(0)
    active = await submitted(process)
    assert await soon(idle) == (active, SPEC)
    row = await process.row(active.id)
    assert (row["state"], row["server_id"], row["epoch"]) == ("processing", process.server_id, 1)
    assert (active.epoch, active.attempts, active.waiting) == (1, 1, False)
    assert not process.idle.woken


async def test_a_submitted_export_waits_behind_another_that_the_idle_worker_may_begin(process: Process) -> None:
    await process.queued()
    idle = asyncio.create_task(process.idle.next())
    await asyncio.sleep(0)
    active = await submitted(process)
    assert await soon(idle) is None  # it claims
    assert active.waiting


async def test_an_export_waits_while_the_source_is_away(process: Process) -> None:
    idle = asyncio.create_task(process.idle.next())
    await asyncio.sleep(0)
    process.gate.went_away("no connection")
    active = await submitted(process)
    assert active.waiting
    assert await soon(idle) is None  # it waits at the gate, and claims then


async def test_a_server_that_stops_takes_no_export(process: Process) -> None:
    process.actives.stopping = True
    with pytest.raises(Unavailable, match="stopping"):
        await process.admission.submit(REQUEST, OPEN)


async def test_no_more_exports_wait_than_the_capacity(process: Process) -> None:
    for _ in range(CAPACITY):
        await submitted(process)
    with pytest.raises(QueueFull, match=f"{CAPACITY} exports are waiting already"):
        await process.admission.submit(REQUEST, OPEN)
    assert len(list(process.actives)) == CAPACITY


async def test_exports_that_are_submitted_at_once_do_not_exceed_the_capacity(process: Process) -> None:
    results = await asyncio.gather(
        *(process.admission.submit(REQUEST, OPEN) for _ in range(CAPACITY + 3)), return_exceptions=True
    )
    assert sum(isinstance(result, ActiveExport) for result in results) == CAPACITY
    assert sum(isinstance(result, QueueFull) for result in results) == 3


@pytest.fixture
async def tight(pool: Pool, tmp_path: Path, executor: ThreadPoolExecutor) -> AsyncIterator[Process]:
    """A process whose folder has room for nothing but one byte."""
    directory = SpoolDirectory(tmp_path, executor, max_bytes=1, recount=0.0)
    directory.claim(uuid4())
    process = Process(pool, directory)
    yield process
    await process.close()
    directory.close()


async def test_room_is_made_for_an_export_before_it_is_queued(tight: Process) -> None:
    export_id = await tight.completed_export()
    with tight.completed.reading(export_id), pytest.raises(InsufficientStorage):
        await tight.admission.submit(REQUEST, OPEN)
    assert list(tight.actives) == []
    await submitted(tight)
    assert tight.files() == set()


async def test_nothing_is_evicted_for_an_export_that_is_not_taken(tight: Process) -> None:
    export_id = await tight.completed_export()
    for _ in range(CAPACITY):
        await tight.queued()
    with pytest.raises(QueueFull):
        await tight.admission.submit(REQUEST, OPEN)
    assert tight.files() == {export_id}


async def test_a_known_key_returns_the_first_export(process: Process) -> None:
    active = await submitted(process, key="key")
    known = await process.admission.submit(REQUEST, OPEN, key="key")
    assert isinstance(known, Export)
    assert known.id == active.id
    assert process.actives.waiting == [active.id]


async def test_requests_with_one_key_at_once_are_one_export(process: Process, pool: Pool) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE streamer.exports")  # both find the key unknown
        submitting = [asyncio.create_task(process.admission.submit(REQUEST, OPEN, key="key")) for _ in range(CAPACITY)]
        await until_locked_out(pool, CAPACITY)
    results = await soon(asyncio.gather(*submitting))
    assert len({result.id for result in results}) == 1
    assert len(process.actives.waiting) == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"label": "another"}, "for another request"),
        ({"ttl": HOUR}, "for another request"),
        ({"spec": "{}"}, "that this version cannot read"),
    ],
    ids=["label", "ttl", "unreadable"],
)
async def test_a_key_of_another_request_is_refused(process: Process, change: dict[str, object], sentence: str) -> None:
    active = await submitted(process, key="key")
    await process.change(active.id, **change)
    with pytest.raises(KeyReused, match=sentence):
        await process.admission.submit(REQUEST, OPEN, key="key")


async def test_an_export_whose_row_cannot_be_written_is_forgotten(process: Process, pool: Pool) -> None:
    await pool.execute("ALTER TABLE streamer.exports RENAME TO away")
    with pytest.raises(UndefinedTableError):
        await process.admission.submit(REQUEST, OPEN)
    assert list(process.actives) == []
    assert not process.idle.woken


async def test_a_client_that_leaves_while_its_export_is_inserted_changes_nothing(process: Process, pool: Pool) -> None:
    async with pool.acquire() as connection:
        await connection.execute(STATEMENTS["lock_queue"])
        submitting = asyncio.create_task(process.admission.submit(REQUEST, OPEN))
        await until_locked_out(pool)
        submitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submitting
        await connection.execute("COMMIT")
    await soon(process.idle.next())
    (export_id,) = process.actives.waiting
    assert (await process.row(export_id))["state"] == "pending"


async def test_an_export_without_followers_is_cancelled_in_time(process: Process) -> None:
    active = await submitted(process, abandon_after=0.01)
    await soon(active.spool.end())
    assert active.spool.broken.result() == CANCELLED
    assert (await process.row(active.id))["state"] == "cancelled"


async def test_a_queued_export_that_is_cancelled_breaks_its_followers(process: Process) -> None:
    active = await submitted(process)
    active.meter.percentage = 12.5
    cancelled = await process.admission.cancel(active.id, EVERYBODY)
    assert (cancelled.state, cancelled.progress.percentage) == (State.CANCELLED, 12.5)
    assert active.spool.broken.result() == CANCELLED
    assert list(process.actives) == []


async def test_an_export_of_another_server_is_cancelled_in_the_table(process: Process) -> None:
    other = Process(process.pool, process.directory)
    theirs = await other.queued()
    assert (await process.admission.cancel(theirs.id, EVERYBODY)).state is State.CANCELLED
    await other.close()


async def test_a_cancellation_completes_although_its_client_leaves(process: Process, pool: Pool) -> None:
    active = await submitted(process)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE streamer.exports")
        cancelling = asyncio.create_task(process.admission.cancel(active.id, EVERYBODY))
        await until_locked_out(pool)
        cancelling.cancel()
        await asyncio.wait({cancelling})
    await soon(active.spool.end())
    assert (await process.row(active.id))["state"] == "cancelled"


async def test_a_finished_export_is_not_cancelled(process: Process) -> None:
    export_id = await process.completed_export()
    assert (await process.admission.cancel(export_id, EVERYBODY)).state is State.COMPLETED
    assert process.files() == {export_id}


async def test_a_finished_export_is_removed_with_its_file(process: Process) -> None:
    export_id = await process.completed_export()
    assert (await process.admission.remove(export_id, EVERYBODY)).state is State.COMPLETED
    assert (await process.row(export_id))["removed_at"] is not None
    assert process.files() == set()


async def test_an_unfinished_export_is_cancelled_when_it_is_removed(process: Process) -> None:
    active = await submitted(process)
    assert (await process.admission.remove(active.id, EVERYBODY)).state is State.CANCELLED
    assert active.spool.broken.result() == CANCELLED


async def test_what_does_not_exist_is_not_found(process: Process) -> None:
    for call in (process.admission.get, process.admission.cancel, process.admission.remove):
        with pytest.raises(NotFound):
            await call(uuid4(), EVERYBODY)


async def test_a_state_of_a_newer_version_is_left_alone(process: Process, pool: Pool) -> None:
    export_id = await process.completed_export()
    await pool.execute("ALTER TABLE streamer.exports DROP CONSTRAINT exports_state_check")
    await process.change(export_id, state="archived")
    for call in (process.admission.cancel, process.admission.remove):
        with pytest.raises(WrittenByNewer):
            await call(export_id, EVERYBODY)
    assert process.files() == {export_id}


async def test_a_completed_export_is_shown_once_its_file_is_sealed(process: Process) -> None:
    active = await submitted(process)
    await process.change(active.id, state="completed")
    getting = asyncio.create_task(process.admission.get(active.id, EVERYBODY))

    async def answered() -> bool:
        return bool(process.pool.get_idle_size() == process.pool.get_size())

    await until(answered, "the row has been read")
    assert not getting.done()
    active.spool.seal()
    assert (await soon(getting)).state is State.COMPLETED


async def test_an_export_that_has_ended_is_not_active(process: Process) -> None:
    active = await submitted(process)
    active.spool.fail("the reason")
    assert process.admission.active(active.id, EVERYBODY) is None
    assert process.admission.active(uuid4(), EVERYBODY) is None


REPORTS = Principal(name="key:reports", bounds=Bounds(role="reports_reader", limit=3))


async def test_an_export_of_another_principal_does_not_exist(process: Process) -> None:
    active = await submitted(process)
    assert process.admission.active(active.id, REPORTS) is None
    for call in (process.admission.get, process.admission.cancel, process.admission.remove):
        with pytest.raises(NotFound):
            await call(active.id, REPORTS)
    assert (await process.admission.page(REPORTS, ExportFilter(), None, 20))[0] == []
    assert (await process.row(active.id))["state"] == "pending"


async def test_the_bounds_of_the_principal_are_those_of_its_export(process: Process) -> None:
    active = await process.admission.submit(REQUEST, REPORTS)
    export = await process.store.get(active.id, REPORTS)
    assert export.spec is not None
    assert export.spec.bounds == REPORTS.bounds


async def test_a_key_of_a_request_within_other_bounds_is_refused(process: Process) -> None:
    await process.admission.submit(REQUEST, REPORTS, key="key")
    with pytest.raises(KeyReused):
        await process.admission.submit(REQUEST, Principal(name=REPORTS.name), key="key")
