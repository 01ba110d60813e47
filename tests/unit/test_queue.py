"""The queue, on a real PostgreSQL: what is accepted, what begins, and in which order."""

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from streamer.jobs.queue import Queue
from streamer.jobs.servers import Servers
from streamer.jobs.table import STATEMENTS
from streamer.jobs.times import JobTimes
from streamer.model import OPEN, SPEC_VERSION, ExportRequest, Principal, State
from streamer.postgres.driver import Pool
from tests.conftest import connected
from tests.polling import until
from tests.unit.process import HOUR, SPEC, until_locked_out

FOLDER, OTHER_FOLDER = UUID(int=1), UUID(int=2)
ALICE, BOB, CAROL = [Principal(name=f"key:{name}") for name in ("alice", "bob", "carol")]
REQUEST = ExportRequest(spec=SPEC)
PAST = datetime(2024, 5, 1, tzinfo=UTC)

MakeQueue = Callable[..., Queue]


@pytest.fixture
def make_queue(pool: Pool) -> MakeQueue:
    """Makes the queue as another server sees it."""

    def make(folder: UUID = FOLDER, **limits: Any) -> Queue:
        return Queue(pool, uuid4(), JobTimes(), folder=folder, **{"capacity": 1000, **limits})

    return make


@pytest.fixture
def queue(make_queue: MakeQueue) -> Queue:
    return make_queue()


async def waiting(queue: Queue, principal: Principal = OPEN, **columns: object) -> UUID:
    """The id of a new export that waits. Some columns of its row are set."""
    export_id = uuid4()
    assert await queue.accept(export_id, REQUEST, principal, begin=False) is not None
    await change(queue, export_id, **columns)
    return export_id


async def change(queue: Queue, export_id: UUID, **columns: object) -> None:
    for name, value in columns.items():
        await queue._pool.execute(f"UPDATE streamer.exports SET {name} = $2 WHERE id = $1", export_id, value)


async def row(queue: Queue, export_id: UUID) -> Any:
    return await queue._pool.fetchrow("SELECT * FROM streamer.exports WHERE id = $1", export_id)


async def claimed(queue: Queue) -> UUID | None:
    claim = await queue.claim()
    return claim.export.id if claim.export else None


async def begun(queue: Queue) -> UUID:
    export_id = await claimed(queue)
    assert export_id is not None
    return export_id


async def end(queue: Queue, export_id: UUID) -> None:
    await change(queue, export_id, state="completed")


# Accepting


async def test_a_new_export_begins_at_once_if_a_worker_is_free(queue: Queue) -> None:
    export_id = uuid4()
    accepted = await queue.accept(export_id, REQUEST, ALICE, begin=True)
    assert accepted is not None
    assert accepted.begun
    found = await row(queue, export_id)
    assert (found["state"], found["server_id"], found["folder"]) == ("processing", queue._server_id, FOLDER)
    assert (found["epoch"], found["attempts"], found["principal"]) == (1, 1, "key:alice")
    assert found["created_at"] == found["started_at"] == accepted.created_at
    assert found["lease_until"] == accepted.created_at + JobTimes().lease


async def test_a_new_export_waits_without_a_server_if_no_worker_is_free(queue: Queue) -> None:
    export_id = uuid4()
    accepted = await queue.accept(export_id, REQUEST, ALICE, begin=False)
    assert accepted is not None
    assert not accepted.begun
    found = await row(queue, export_id)
    assert (found["state"], found["server_id"], found["lease_until"]) == ("pending", None, None)
    assert (found["epoch"], found["attempts"], found["started_at"]) == (0, 0, None)


@pytest.mark.parametrize(
    ("columns", "begun"),
    [
        ({}, False),
        ({"not_before": PAST}, False),
        ({"folder": None}, False),
        ({"folder": OTHER_FOLDER}, True),
        ({"not_before": PAST + 100_000 * HOUR}, True),
        ({"spec_version": SPEC_VERSION + 1}, True),
        ({"state": "cancelled"}, True),
    ],
)
async def test_a_new_export_begins_only_if_no_other_may_begin_before_it(
    queue: Queue, columns: dict[str, object], begun: bool
) -> None:
    await change(queue, await waiting(queue), **columns)
    accepted = await queue.accept(uuid4(), REQUEST, ALICE, begin=True)
    assert accepted is not None
    assert accepted.begun is begun


async def test_no_more_exports_wait_than_the_capacity_of_all_servers(make_queue: MakeQueue) -> None:
    queues = [make_queue(capacity=3), make_queue(OTHER_FOLDER, capacity=3)]
    results = await asyncio.gather(*(queue.accept(uuid4(), REQUEST, OPEN, begin=False) for queue in queues * 10))
    assert sum(result is not None for result in results) == 3
    assert await queues[0].is_full()
    assert await queues[0].accept(uuid4(), REQUEST, OPEN, begin=True) is None
    await claimed(queues[0])
    await claimed(queues[1])
    assert not await queues[0].is_full()


async def test_a_full_queue_stops_no_export_that_begins_at_once(make_queue: MakeQueue) -> None:
    full = make_queue(OTHER_FOLDER, capacity=1)
    await waiting(full)
    accepted = await make_queue(capacity=1).accept(uuid4(), REQUEST, OPEN, begin=True)
    assert accepted is not None
    assert accepted.begun


@pytest.mark.parametrize("begin", [True, False])
async def test_a_known_key_of_the_principal_inserts_nothing(queue: Queue, begin: bool) -> None:
    assert await queue.accept(uuid4(), REQUEST, ALICE, "key", begin=begin) is not None
    assert await queue.accept(uuid4(), REQUEST, ALICE, "key", begin=begin) is None
    assert await queue.accept(uuid4(), REQUEST, BOB, "key", begin=begin) is not None
    assert await queue._pool.fetchval("SELECT count(*) FROM streamer.exports") == 2


# Claiming


async def test_a_claim_makes_the_export_one_of_this_server(queue: Queue) -> None:
    export_id = await waiting(queue, not_before=PAST, folder=None)
    export = (await queue.claim()).export
    assert export is not None
    assert (export.id, export.state, export.attempts, export.epoch, export.folder) == (
        *(export_id, State.PROCESSING, 1, 1, FOLDER),
    )
    found = await row(queue, export_id)
    assert (found["server_id"], found["not_before"]) == (queue._server_id, None)
    assert found["lease_until"] > datetime.now(UTC)
    assert await claimed(queue) is None


async def test_every_claim_raises_the_epoch(make_queue: MakeQueue) -> None:
    export_id = await waiting(make_queue())
    for epoch in (1, 2, 3):
        export = (await make_queue().claim()).export
        assert export is not None
        assert export.epoch == epoch
        await change(make_queue(), export_id, state="pending")


async def test_the_exports_of_one_principal_begin_in_the_order_of_their_creation(queue: Queue) -> None:
    exports = [await waiting(queue) for _ in range(4)]
    assert [await claimed(queue) for _ in exports] == exports


async def test_the_next_export_is_one_of_the_principal_with_the_fewest_running(queue: Queue) -> None:
    """100 of alice, then 5 of bob and 2 of carol, on 3 workers."""
    owners = {await waiting(queue, owner): owner.name for owner in [ALICE] * 100 + [BOB] * 5 + [CAROL] * 2}
    running = [await begun(queue) for _ in range(3)]
    order = [owners[each] for each in running]
    for _ in range(9):
        await end(queue, running.pop(0))
        running.append(await begun(queue))
        order.append(owners[running[-1]])
    assert "".join(name.removeprefix("key:")[0] for name in order) == "abcabcababab"


async def test_a_small_export_behind_a_hundred_of_another_principal_is_next(queue: Queue) -> None:
    for _ in range(100):
        await waiting(queue, ALICE)
    first = [await begun(queue) for _ in range(3)]
    small = await waiting(queue, BOB)
    await end(queue, first[0])
    assert await claimed(queue) == small


async def test_of_two_principals_that_run_as_many_the_one_that_began_longer_ago_is_next(queue: Queue) -> None:
    for owner, started_at in ((ALICE, PAST + HOUR), (BOB, PAST)):
        await waiting(queue, owner, state="completed", started_at=started_at)
    alices, bobs, carols = [await waiting(queue, owner) for owner in (ALICE, BOB, CAROL)]
    assert [await claimed(queue) for _ in range(3)] == [carols, bobs, alices]


@pytest.mark.parametrize(
    "columns",
    [{"not_before": PAST + 100_000 * HOUR}, {"folder": OTHER_FOLDER}, {"spec_version": SPEC_VERSION + 1}],
    ids=["delayed", "of another folder", "of a newer version"],
)
async def test_what_this_server_may_not_begin_is_left_and_does_not_stop_others(
    queue: Queue, columns: dict[str, object]
) -> None:
    await change(queue, await waiting(queue), **columns)
    assert not await queue.is_claimable()
    assert await claimed(queue) is None
    other = await waiting(queue)
    assert await queue.is_claimable()
    assert await claimed(queue) == other


async def test_a_request_that_cannot_be_read_is_passed_over_unchanged(queue: Queue) -> None:
    damaged = await waiting(queue, spec="{}")
    before = await row(queue, damaged)
    readable = await waiting(queue)
    claim = await queue.claim()
    assert claim.export is not None
    assert (claim.export.id, claim.unreadable) == (readable, [damaged])
    claim = await queue.claim()
    assert (claim.export, claim.unreadable) == (None, [damaged])
    assert await row(queue, damaged) == before


async def test_an_export_whose_run_has_not_ended_here_is_not_claimed_here(queue: Queue) -> None:
    export_id = await waiting(queue)
    assert (await queue.claim([export_id])).export is None
    assert await claimed(queue) == export_id


async def test_an_export_that_is_cancelled_while_it_is_claimed_is_passed_over(queue: Queue, pool: Pool) -> None:
    cancelled, second = await waiting(queue), await waiting(queue)
    async with pool.acquire() as connection:
        async with connection.transaction():
            await connection.execute("UPDATE streamer.exports SET state = 'cancelled' WHERE id = $1", cancelled)
            claiming = asyncio.create_task(claimed(queue))
            await until_locked_out(pool)
        assert await claiming == second


async def test_no_more_exports_run_on_all_servers_than_the_source_allows(make_queue: MakeQueue) -> None:
    queues = [make_queue(source_exports=3), make_queue(OTHER_FOLDER, source_exports=3)]
    begun = [await queue.accept(uuid4(), REQUEST, OPEN, begin=True) for queue in queues * 3]
    assert [accepted.begun for accepted in begun if accepted] == [True] * 3 + [False] * 3
    assert not await queues[0].is_claimable()
    assert await claimed(queues[0]) is await claimed(queues[1]) is None
    running = await queues[0]._pool.fetchval("SELECT id FROM streamer.exports WHERE state = 'processing' LIMIT 1")
    await end(queues[0], running)
    assert await queues[1].is_claimable()
    found = await asyncio.gather(*(claimed(queue) for queue in queues))
    assert sum(each is not None for each in found) == 1


async def test_each_export_is_claimed_once_by_any_number_of_servers(make_queue: MakeQueue) -> None:
    exports = {await waiting(make_queue(), owner) for owner in [ALICE, BOB, CAROL] * 10}

    async def claim_all(queue: Queue) -> list[UUID]:
        found = []
        while export_id := await claimed(queue):
            found.append(export_id)
        return found

    found = await asyncio.gather(*(claim_all(make_queue()) for _ in range(4)))
    assert Counter(each for server in found for each in server) == Counter(exports)


# The lock


async def test_inserts_and_claims_wait_for_one_another(queue: Queue, pool: Pool) -> None:
    export_id = await waiting(queue)
    async with pool.acquire() as connection:
        await connection.execute(STATEMENTS["lock_queue"])
        working = [asyncio.create_task(claimed(queue)), asyncio.create_task(waiting(queue))]
        await until_locked_out(pool, 2)
        await connection.execute("COMMIT")
    assert export_id in await asyncio.gather(*working)


async def test_a_server_that_is_paused_in_its_transaction_loses_the_lock(queue: Queue, pool: Pool) -> None:
    async with pool.acquire() as connection:
        await connection.execute(STATEMENTS["lock_queue"].replace("'5s'", "'50ms'"))
        await waiting(queue)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await connection.execute("COMMIT")


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_limits_are_exact_at_every_default_isolation_level(
    make_queue: MakeQueue, pool: Pool, isolation: str
) -> None:
    name = await pool.fetchval("SELECT current_database()")
    await pool.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'")
    await pool.expire_connections()
    results = await asyncio.gather(
        *(make_queue(capacity=5).accept(uuid4(), REQUEST, OPEN, begin=False) for _ in range(30))
    )
    assert sum(result is not None for result in results) == 5


async def test_a_transaction_that_fails_leaves_nothing_in_its_session(queue: Queue, pool: Pool) -> None:
    await pool.execute("ALTER TABLE streamer.exports RENAME TO away")
    for _ in range(5):  # more than there are connections
        with pytest.raises(asyncpg.UndefinedTableError):
            await queue.claim()
    await pool.execute("ALTER TABLE streamer.away RENAME TO exports")
    await waiting(queue)
    assert await claimed(queue)


# Servers of other folders


def servers(queue: Queue) -> Servers:
    return Servers(queue._pool, queue._server_id, JobTimes(), folder=queue._folder)


async def test_the_exports_of_a_folder_without_a_live_server_are_adopted(make_queue: MakeQueue, pool: Pool) -> None:
    first, second = make_queue(), make_queue(OTHER_FOLDER)
    await servers(first).beat()
    export_id = await waiting(first)
    newer = await waiting(first, spec_version=SPEC_VERSION + 1)
    assert await second.adopt() == []
    await pool.execute("UPDATE streamer.servers SET beat_at = clock_timestamp() - $1::interval", timedelta(seconds=31))
    assert await first.adopt() == []
    assert await second.adopt() == [export_id]
    assert await claimed(first) is None
    assert await claimed(second) == export_id
    assert (await row(first, newer))["folder"] == FOLDER


async def test_the_exports_of_a_server_that_has_left_are_adopted_at_once(make_queue: MakeQueue) -> None:
    first, second = make_queue(), make_queue(OTHER_FOLDER)
    await servers(first).beat()
    export_id = await waiting(first)
    await servers(first).leave()
    assert await second.adopt() == [export_id]


# Announcements


async def test_every_change_of_a_state_is_announced(queue: Queue, database: str) -> None:
    heard: list[str] = []
    async with connected(database) as connection:
        await connection.add_listener("streamer", lambda *arguments: heard.append(arguments[-1]))
        export_id = await waiting(queue)
        await claimed(queue)
        await end(queue, export_id)

        async def three() -> bool:
            return len(heard) == 3

        await until(three, "three changes are announced")
    assert heard == [f"{export_id} {state}" for state in ("pending", "processing", "completed")]
