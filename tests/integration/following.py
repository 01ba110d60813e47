"""Representations of an export that stands still where a test wants it, with bytes that the test knows.

A compressed file depends on where its coder was flushed, which a live export leaves to the moment. So the row of the
representation is there before the first download, as a server leaves it that died while it made the file again, of
which nobody had a byte yet: its flushes, at the end of every step, are repeated, and there are no others.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from uuid import UUID, uuid4

from streamer.coding import Coding
from streamer.formats.coders import coder, coder_name
from streamer.formats.compression import Compression, pack_offsets
from tests.codings import resource
from tests.gates import Steps
from tests.held import Held, HeldExport
from tests.rawhttp import connection

BEGUN_BEFORE = """
    INSERT INTO streamer.representations
        (export_id, coding, state, coder, server_id, lease_until, folder, bytes, sha256, flushes)
    VALUES ($1, $2, 'processing', $3, $4, '-infinity', $4, $5, $6, $7)
"""


@dataclass(frozen=True)
class Followed(HeldExport):
    """One representation, seen as a resource of its own."""

    coding: Coding
    tag: str

    @property
    def etag(self) -> str:
        return self.tag

    @property
    def download(self) -> str:
        return resource(self.id, self.coding)

    @property
    def whole(self) -> bytes:
        return self.through(self.steps.last)

    def through(self, step: int) -> bytes:
        """What can be read while the export stands at the gate that follows `step`."""
        return files(self.coding, self.steps)[step]

    async def there(self) -> bytes:
        """What can be read now, of an export that stands at a gate."""
        identity = [len(self.steps.through(step)) for step in range(1, self.steps.last + 1)]
        return self.through(identity.index((await self.status())["progress"]["bytes"]) + 1)


@cache
def files(coding: Coding, steps: Steps) -> dict[int, bytes]:
    """The representation after each step."""
    if coding is Coding.IDENTITY:
        return {step: steps.through(step) for step in range(1, steps.last + 1)}
    made, found = bytearray(), {}
    whole, flushes = memoryview(steps.whole), _flushes(steps)
    compression = Compression(coder(coding), flushes)
    while cut := compression.next_cut(len(whole), ended=True, flush=False):
        made += compression.take(whole[compression.position : cut.stop], cut)
        if cut.flush:
            found[flushes.index(cut.stop) + 1] = bytes(made)
    found[steps.last] = bytes(made + compression.end())
    return found


def _flushes(steps: Steps) -> list[int]:
    return [len(steps.through(step)) for step in range(1, steps.last + 1)]


async def represented(export: HeldExport, coding: Coding, served: bytes = b"") -> Followed:
    """The representation, of which nothing is made before the first download. Clients may have `served` of it."""
    if coding is Coding.IDENTITY:
        return Followed(export.held, export.steps, export.id, coding, export.etag)
    flushes = pack_offsets(_flushes(export.steps))
    columns = UUID(export.id), coding, coder_name(coding), uuid4()
    proof = len(served), hashlib.sha256(served).digest(), flushes
    await export.held.gates.connection.execute(BEGUN_BEFORE, *columns, *proof)
    etag = (await export.status())["representations"][coding]["etag"]
    return Followed(export.held, export.steps, export.id, coding, etag)


async def standing(held: Held, steps: Steps, coding: Coding, *, at: int) -> Followed:
    """A representation of a new export, all that can be made of which is there, up to the gate behind step `at`."""
    export = await represented(await held.export(steps, at=at), coding)
    async with connection(held.url) as client:
        await client.send("GET", export.download)
        _, body = await client.begin()
        assert await body.grow_to(len(export.through(at))) == export.through(at)
        client.vanish()
    return export
