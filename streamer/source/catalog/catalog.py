"""Which relations and columns may be exported, with their types.

Identifiers in SQL come from here and never from a request. A catalog is filled from the database (introspection.py) and
may be filled anew while requests run: a dataset is a frozen value, so whoever has taken one goes on with what it was.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping

from streamer.errors import StartError
from streamer.source.dataset import Dataset

log = logging.getLogger(__name__)


class Catalog(Mapping[str, Dataset]):
    """The datasets by their public names. `read` gives them anew; `is_current` asks the database about one of them."""

    def __init__(
        self,
        datasets: Mapping[str, Dataset],
        read: Callable[[], Awaitable[Mapping[str, Dataset]]] | None = None,
        is_current: Callable[[Dataset], Awaitable[bool]] | None = None,
    ) -> None:
        self._datasets = dict(datasets)
        self._read = read
        self._is_current = is_current
        self._rereading = asyncio.Lock()

    def __getitem__(self, name: str) -> Dataset:
        return self._datasets[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._datasets)

    def __len__(self) -> int:
        return len(self._datasets)

    async def refresh(self, name: str) -> None:
        """Has everything read again if the relation of a dataset has changed, so that a request is read as of now."""
        dataset = self._datasets.get(name)
        if dataset is None or self._is_current is None or await self._is_current(dataset):
            return
        log.info("the catalog is read again: the relation of %s has changed", name)
        try:
            await self.reread(outdated=dataset)
        except StartError as reason:
            log.warning("the catalog stays as it was: %s", reason)

    async def reread(self, outdated: Dataset | None = None) -> None:
        """Takes the place of what was there in one step, or leaves it. Raises StartError, as at the start.

        With `outdated` nothing is read if that dataset has been replaced meanwhile.
        """
        if self._read is None:
            return
        async with self._rereading:
            if outdated is None or self._datasets.get(outdated.name) is outdated:
                self._datasets = dict(await self._read())
