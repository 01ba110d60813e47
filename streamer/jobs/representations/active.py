"""A compressed representation while it is made: its spool, and what its followers need to know."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from uuid import UUID

from streamer.coding import Coding
from streamer.formats.compression import Compression
from streamer.jobs.active import ActiveExport
from streamer.model import Representation
from streamer.protocol.disposition import ContentDescription
from streamer.spool.names import SpoolName
from streamer.spool.spool import Spool


@dataclass(frozen=True, slots=True)
class ServedBytes:
    """The first bytes of a representation, which clients may have downloaded: their number, and their SHA-256.

    `flushes` are the offsets of the export at which the coder was flushed.
    """

    length: int
    sha256: bytes
    flushes: tuple[int, ...]


NOTHING = ServedBytes(0, hashlib.sha256().digest(), ())


class ActiveRepresentation:
    """Exists from before its first byte until its followers know of its last one, or of its failure.

    It is followed as an ActiveExport is. A representation that was served before is followed once it is `proven`: until
    then its bytes may turn out to be others.
    """

    def __init__(
        self,
        row: Representation,
        spool: Spool,
        content: ContentDescription,
        *,
        principal: str,
        live: ActiveExport | None,
        reading: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """`principal` is the name of the export's owner; `live` is the export if it is unfinished.

        `reading` keeps its file from being removed.
        """
        self.row = row
        self.spool = spool
        self.content = content
        self.principal = principal
        self.live = live
        self.has_place = False  # among those that are made at once
        self.failing = False  # its end is being written to the table, and is not to be cancelled
        self.removed = False  # the export's files were removed meanwhile
        self.proven = asyncio.Event()
        self.served_before = NOTHING  # in an earlier run
        self.compression: Compression | None = None  # of the current run
        self._reading = reading

    @property
    def id(self) -> UUID:
        """The export's."""
        return self.row.export_id

    @property
    def coding(self) -> Coding:
        return self.row.coding

    @property
    def name(self) -> SpoolName:
        return SpoolName(self.id, self.coding)

    @property
    def export_is_complete(self) -> bool:
        """Whether its length will be known soon."""
        return self.live is None or self.live.spool.sealed

    @property
    def export_has_failed(self) -> bool:
        """Whether nothing of it can be asked for any more."""
        return self.live is not None and self.live.spool.broken.done()

    @property
    def served(self) -> ServedBytes:
        """What clients may have of a representation whose spool is no longer written."""
        if self.compression is None or not self.proven.is_set():
            return self.served_before
        return ServedBytes(*self.spool.written, self.compression.flushes)

    async def settled(self) -> None:
        """Returns when the representation may be followed, or has failed."""
        await self.spool.end_or(self.proven)

    async def early(self) -> bytes:
        """Nothing is known before it is in the spool."""
        return b""

    async def ensure_served(self) -> None:
        """The export was marked as served before its first byte was compressed."""

    async def try_mark_served(self) -> bool:
        return True

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Keeps the export from being abandoned, and its files from being removed, while the context is open."""
        with self.live.followed() if self.live else self._reading():
            yield
