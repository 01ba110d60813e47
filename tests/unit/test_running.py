"""How a command of the client runs its work."""

import gc
from collections.abc import Iterator

import pytest

from streamer.client import Client
from streamer.commands.running import run_with_client


@pytest.fixture
def nothing_frozen() -> Iterator[None]:
    gc.unfreeze()
    assert gc.get_freeze_count() == 0
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("nothing_frozen")
def test_imported_modules_are_outside_the_garbage_collection_of_a_command() -> None:
    """A collection would visit every object of the imported modules, and free none."""

    async def frozen(client: Client) -> int:
        return gc.get_freeze_count()

    assert run_with_client("http://127.0.0.1:9", None, frozen) > 10_000
