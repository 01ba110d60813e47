"""The bytes of an export as they come, without a file: verified at the end, decoded on the way if wanted."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from streamer.client.decoding import Decoder, decoder_of
from streamer.client.download import Download, verify
from streamer.client.hashing import new_digest
from streamer.client.remote import Remote
from streamer.client.representation import Representation, Transfer
from streamer.coding import Coding


async def stream(remote: Remote, transfer: Transfer) -> AsyncGenerator[bytes, None]:
    """Ends without an exception only after the last byte, and only if every SHA-256 is the server's."""
    wanted = Representation.of(await remote.downloadable_status(), transfer.coding)
    download = Download(remote, wanted.coding, wanted.etag)
    chunks = _decoded(download, decoder_of(transfer.coding)) if transfer.decode else _verified(download)
    async with aclosing(chunks):
        async for chunk in chunks:
            yield chunk


async def _verified(download: Download) -> AsyncGenerator[bytes, None]:
    digest, length = new_digest(), 0
    async with aclosing(download.chunks()) as chunks:
        async for chunk in chunks:
            digest.update(chunk)
            length += len(chunk)
            yield chunk
    assert download.final
    verify(download.final, length=length, sha256=digest.hexdigest(), announced=download.announced_sha256)


async def _decoded(download: Download, decoder: Decoder) -> AsyncGenerator[bytes, None]:
    """Decodes in a thread. Both the transferred and the decoded bytes are verified."""
    digest, length = new_digest(), 0
    async with aclosing(_verified(download)) as chunks:
        async for chunk in chunks:
            pieces = decoder.decode(chunk)
            while piece := await asyncio.to_thread(next, pieces, b""):
                digest.update(piece)
                length += len(piece)
                yield piece
    decoder.end()
    assert download.final
    csv = Representation.of(download.final.export, Coding.IDENTITY)
    verify(csv, length=length, sha256=digest.hexdigest(), announced=None)
