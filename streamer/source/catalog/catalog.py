"""The relations and columns that may be exported, with their types.

Identifiers in SQL come from the catalog, never from a request. A catalog is read from the database (introspection.py),
and may be read again while requests are handled: a dataset is an immutable value, so a request continues with the one
that it has read.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping

from streamer.errors import StartError
from streamer.source.dataset import Dataset

log = logging.getLogger(__name__)


class Catalog(Mapping[str, Dataset]):
    """The datasets by name. `read` reads all of them again; `is_current` compares one of them with the database."""

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
        """Reads the catalog again if the relation of a dataset has changed. A failure leaves the catalog as it was."""
        dataset = self._datasets.get(name)
        if dataset is None or self._is_current is None or await self._is_current(dataset):
            return
        log.info("the catalog is read again: the relation of %s has changed", name)
        try:
            await self.reread(outdated=dataset)
        except StartError as reason:
            log.warning("the catalog stays as it was: %s", reason)

    async def reread(self, outdated: Dataset | None = None) -> None:
        """Replaces all datasets at once. Raises StartError, as at the start, and then changes nothing.

        With `outdated` nothing is read if that dataset has been replaced in the meantime.
        """
        if self._read is None:
            return
        async with self._rereading:
            if outdated is None or self._datasets.get(outdated.name) is outdated:
                self._datasets = dict(await self._read())
