"""A compressed file is decoded into a file whose room is reserved first."""

import asyncio
import gzip
import hashlib
from pathlib import Path

import pytest

from streamer.client.errors import VerificationFailed
from streamer.client.unpacking import READ_SIZE, decode_file
from streamer.coding import Coding

CONTENT = bytes(range(256)) * 40_000  # 10 MB, of which each read decodes a part
STORED = gzip.compress(CONTENT, compresslevel=0)


def decode(folder: Path, compressed: bytes, length: int) -> tuple[str, list[tuple[int, int]]]:
    """Returns the SHA-256 and, of each step, how many bytes were decoded and how many the file takes on the disk."""
    source, target = folder / "x.gz", folder / "x.csv"
    source.write_bytes(compressed)
    steps: list[tuple[int, int]] = []

    def on_progress(count: int) -> None:
        steps.append((count, target.stat().st_blocks * 512))

    decoding = decode_file(source, target, Coding.GZIP, length, sync_interval=1024 * 1024, on_progress=on_progress)
    return asyncio.run(decoding), steps


def test_a_file_is_decoded_and_hashed_step_by_step(tmp_path: Path) -> None:
    sha256, steps = decode(tmp_path, STORED, len(CONTENT))
    assert (tmp_path / "x.csv").read_bytes() == CONTENT
    assert sha256 == hashlib.sha256(CONTENT).hexdigest()
    counts = [count for count, _ in steps]
    assert counts == sorted(counts)
    assert len(counts) == -(-len(STORED) // READ_SIZE)


def test_a_disk_that_is_too_small_is_found_before_anything_is_decoded(tmp_path: Path) -> None:
    """The room is taken at the start."""
    _, steps = decode(tmp_path, STORED, len(CONTENT))
    count, reserved = steps[0]
    assert count < len(CONTENT) / 10
    assert reserved >= len(CONTENT)


def test_decoding_ends_as_soon_as_there_are_more_bytes_than_expected(tmp_path: Path) -> None:
    with pytest.raises(VerificationFailed, match="more than the 1000000 bytes"):
        decode(tmp_path, STORED, 1_000_000)
    assert (tmp_path / "x.csv").stat().st_size == 1_000_000
