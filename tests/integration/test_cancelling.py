"""A COPY that is cancelled at the moment at which rows arrive.

The driver completes a future when rows have arrived, and the task that awaits it continues in the next iteration of the
event loop. A cancellation before, between or after must reach the server.
"""

import asyncio
from collections.abc import Callable

import pytest

from streamer.postgres.row_limit import RowSizeLimit
from streamer.source.source import CursorChoice
from tests.integration.sources import Plain, Received, assert_all_usable, assert_nothing_runs, opened, spec

ROWS = "CREATE TABLE long AS SELECT n, repeat('x', 100) AS words FROM generate_series(1, 200000) n"
ARRIVALS = range(2, 12)  # of data on a connection that copies, counted from the first

Cancel = Callable[[], object]


def cancelling(patch: pytest.MonkeyPatch, arrival: int, when: str, cancel: Cancel) -> None:
    """Cancels before or after the driver receives the data, or in the next iteration of the event loop."""
    deliver, arrived = RowSizeLimit.data_received, 0

    def data_received(limit: RowSizeLimit, data: bytes) -> None:
        nonlocal arrived
        arrived += limit.active
        due = arrived == arrival and limit.active
        if due and when == "before":
            cancel()
        deliver(limit, data)
        if due and when == "after":
            cancel()
        if due and when == "next":
            asyncio.get_running_loop().call_soon(cancel)

    patch.setattr(RowSizeLimit, "data_received", data_received)


@pytest.mark.parametrize("choice", [CursorChoice.COPY, CursorChoice.BLOCKS])
@pytest.mark.parametrize("when", ["before", "after", "next"])
async def test_a_cancelled_copy_ends_in_the_server_and_its_connection_is_kept(
    database: str,
    plain: Plain,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    choice: CursorChoice,
    when: str,
) -> None:
    await plain.execute(ROWS)
    async with opened(database, choice, "long") as source:
        for arrival in ARRIVALS:
            export = asyncio.create_task(source.drain(spec("long", ["n", "words"]), Received().take))
            with monkeypatch.context() as patch:
                cancelling(patch, arrival, when, export.cancel)
                await asyncio.wait({export})
            assert export.cancelled()
            await assert_nothing_runs(plain)
        await assert_all_usable(source.pool)
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []
