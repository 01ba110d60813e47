"""The compressor: the bytes, when they are published, and the proof of those that were served before."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streamer.coding import COMPRESSED, Coding
from streamer.formats.coders import coder
from streamer.formats.compression import CUT, Compression
from streamer.jobs.representations.active import NOTHING, ServedBytes
from streamer.jobs.representations.compressor import Compressor, OtherBytesError, Proof
from streamer.spool.follower import Follower, TruncatedError
from streamer.spool.spool import Spool
from streamer.spool.writer import Volume
from tests.codings import Decoding, decoded
from tests.unit.spools import published, soon

both = pytest.mark.parametrize("coding", COMPRESSED)
CONTENT = random.Random(19).randbytes(CUT // 4) * 9  # of several cuts, and not of whole ones


class Making:
    """One representation of one spool: `proven` is set as soon as it may be followed."""

    def __init__(
        self, coding: Coding, spool: Spool, executor: ThreadPoolExecutor, served: ServedBytes = NOTHING
    ) -> None:
        self.spool = spool
        self.proven = asyncio.Event()
        self.compression = Compression(coder(coding), served.flushes)
        self.noted: list[int] = []
        self._compressor = Compressor(
            self.compression,
            spool,
            executor,
            proof=Proof(served),
            on_proven=self.proven.set,
            note_flush=self._note_flush,
        )

    async def _note_flush(self, position: int) -> bool:
        """Comes before the flush: a process that dies in between has noted too much, which changes nothing."""
        assert position not in self.compression.flushes
        self.noted.append(position)
        return True

    async def run(self, source: Spool) -> bytes:
        with Follower(source) as identity:
            await self._compressor.run(identity)
        await self.spool.finish()
        return self.spool.path.read_bytes()

    @property
    def served(self) -> ServedBytes:
        return ServedBytes(*self.spool.written, self.compression.flushes)


@pytest.fixture
async def target(tmp_path: Path, executor: ThreadPoolExecutor) -> AsyncIterator[Spool]:
    spool = Spool(tmp_path / "export.csv.gz", Volume(executor, executor))
    spool.open()
    yield spool
    spool.fail("the test is over")
    await spool.discard()


async def seal(spool: Spool, content: bytes) -> None:
    await spool.append(content, 1)
    await spool.finish()
    spool.seal()


# The proof


@pytest.mark.parametrize("sizes", [[10], [3, 7], [1] * 10, [12], [9, 3]])
def test_proof_is_done_with_the_last_byte_that_was_served(sizes: list[int]) -> None:
    content = bytes(range(sum(sizes)))
    proof, position = Proof(ServedBytes(10, hashlib.sha256(content[:10]).digest(), ())), 0
    for size in sizes:
        assert proof.done == (position >= 10)
        proof.add(content[position : position + size])
        position += size
    assert proof.done
    proof.finish()


def test_other_bytes_are_found_with_the_last_one() -> None:
    proof = Proof(ServedBytes(10, hashlib.sha256(b"0123456789").digest(), ()))
    proof.add(b"012345678")
    with pytest.raises(OtherBytesError):
        proof.add(b"!and more")


def test_fewer_bytes_than_were_served_are_other_bytes() -> None:
    proof = Proof(ServedBytes(10, hashlib.sha256(b"0123456789").digest(), ()))
    proof.add(b"012345678")
    with pytest.raises(OtherBytesError):
        proof.finish()


def test_nothing_served_needs_no_proof() -> None:
    proof = Proof(NOTHING)
    assert proof.done
    proof.add(b"anything")
    proof.finish()


# What is made


@both
async def test_sealed_export_is_compressed_without_flushes(
    coding: Coding, spool: Spool, target: Spool, executor: ThreadPoolExecutor
) -> None:
    await seal(spool, CONTENT)
    making = Making(coding, target, executor)
    assert decoded(coding, await soon(making.run(spool))) == CONTENT
    assert making.proven.is_set()


@both
async def test_everything_is_published_once_the_export_stands_still(
    coding: Coding, spool: Spool, target: Spool, executor: ThreadPoolExecutor
) -> None:
    making, decoding, expected = Making(coding, target, executor), Decoding(coding), b""
    running = asyncio.create_task(making.run(spool))
    for page in (b"id\n1\n", b"2\n", CONTENT, b"3\n"):
        frontier = target.frontier
        await published(spool, page)
        expected += page
        while decoding.decoded != expected:
            await soon(target.moved_beyond(frontier))
            decoding.add(target.path.read_bytes()[frontier : target.frontier])
            frontier = target.frontier
    await seal(spool, b"4\n")
    assert decoded(coding, await soon(running)) == expected + b"4\n"
    assert making.compression.flushes[:2] == (5, 7)


@both
async def test_what_was_made_live_is_made_again_of_the_sealed_export_with_the_same_bytes(
    coding: Coding, spool: Spool, target: Spool, executor: ThreadPoolExecutor
) -> None:
    first = Making(coding, target, executor)
    running = asyncio.create_task(first.run(spool))
    for page in (b"id\n1\n", CONTENT, b"2\n"):
        frontier = target.frontier
        await published(spool, page)
        await soon(target.moved_beyond(frontier))
    await seal(spool, b"3\n")
    whole, served = await soon(running), first.served
    await target.rewind()
    target.open()
    second = Making(coding, target, executor, served)
    assert await soon(second.run(spool)) == whole
    assert second.proven.is_set()


@both
async def test_part_that_was_served_is_proven_before_the_rest_is_made(
    coding: Coding, spool: Spool, target: Spool, executor: ThreadPoolExecutor
) -> None:
    first = Making(coding, target, executor)
    running = asyncio.create_task(first.run(spool))
    await published(spool, b"id\n1\n")
    await soon(target.moved_beyond(0))
    running.cancel()
    await asyncio.wait({running})
    await target.stop_writing()
    served = first.served
    await target.rewind()
    target.open()
    second = Making(coding, target, executor, served)
    again = asyncio.create_task(second.run(spool))
    await soon(second.proven.wait())
    await seal(spool, b"2\n")
    assert decoded(coding, await soon(again)) == b"id\n1\n2\n"


@both
async def test_other_bytes_than_were_served_are_never_proven(
    coding: Coding, spool: Spool, target: Spool, executor: ThreadPoolExecutor
) -> None:
    await seal(spool, CONTENT)
    making = Making(coding, target, executor, ServedBytes(10, b"x" * 32, ()))
    with pytest.raises(OtherBytesError):
        await soon(making.run(spool))
    assert not making.proven.is_set()
    assert target.frontier == 0


@both
async def test_export_that_fails_ends_the_compressor(
    coding: Coding, spool: Spool, target: Spool, executor: ThreadPoolExecutor
) -> None:
    running = asyncio.create_task(Making(coding, target, executor).run(spool))
    await published(spool, b"id\n1\n")
    spool.fail("the database went away")
    with pytest.raises(TruncatedError, match="the database went away"):
        await soon(running)
    assert not target.ended


async def test_file_that_was_cut_short_ends_the_compressor(
    spool: Spool, target: Spool, executor: ThreadPoolExecutor
) -> None:
    await seal(spool, CONTENT)
    spool.path.chmod(0o640)
    with spool.path.open("r+b") as file:
        file.truncate(len(CONTENT) // 2)
    with pytest.raises(TruncatedError, match="shorter"):
        await soon(Making(Coding.GZIP, target, executor).run(spool))
