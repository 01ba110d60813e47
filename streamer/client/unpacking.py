"""Decodes a compressed file that is complete and verified into a second file, and hashes the result.

The compressed file stays until the decoded one is verified, so a run that ends here downloads nothing again: the next
one decodes from the beginning.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import IO

from streamer.client.decoding import Decoder, decoder_of
from streamer.client.errors import VerificationFailed
from streamer.client.hashing import new_digest
from streamer.client.writing import SyncedWriter
from streamer.coding import Coding

READ_SIZE = 256 * 1024  # compressed bytes between two chances to cancel


async def decode_file(
    source: Path, target: Path, coding: Coding, length: int, *, sync_interval: int, on_progress: Callable[[int], None]
) -> str:
    """Decodes `source` into the empty file `target`, and syncs it. Returns the SHA-256 of the decoded bytes.

    Room for all of the `length` decoded bytes is reserved first. Raises VerificationFailed if there are more or fewer,
    and OSError. `on_progress` gets the number of decoded bytes.
    """
    with (
        source.open("rb", buffering=0) as file,
        closing(SyncedWriter(target, sync_interval)) as writer,
        ThreadPoolExecutor(1, thread_name_prefix="decode") as thread,
    ):
        decoding = _Decoding(decoder_of(coding), file, writer, length)
        await asyncio.wrap_future(writer.allocate(length))
        while await asyncio.wrap_future(thread.submit(decoding.step)):
            on_progress(decoding.length)
        await asyncio.wrap_future(writer.sync())
    return decoding.sha256


class _Decoding:
    def __init__(self, decoder: Decoder, source: IO[bytes], writer: SyncedWriter, expected: int) -> None:
        self._decoder = decoder
        self._source = source
        self._writer = writer
        self._expected = expected
        self._digest = new_digest()
        self.length = 0  # decoded bytes

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def step(self) -> bool:
        """Decodes the next READ_SIZE bytes. Returns False at the end."""
        chunk = self._source.read(READ_SIZE)
        if not chunk:
            self._end()
            return False
        for piece in self._decoder.decode(chunk):
            self._take(piece)
        return True

    def _take(self, piece: bytes) -> None:
        if self.length + len(piece) > self._expected:
            raise VerificationFailed(f"more than the {self._expected} bytes of the export were decoded")
        writing = self._writer.write(self.length, piece)
        self._digest.update(piece)
        writing.result()
        self.length += len(piece)

    def _end(self) -> None:
        self._decoder.end()
        if self.length != self._expected:
            raise VerificationFailed(f"{self.length} bytes were decoded, but the export has {self._expected}")
