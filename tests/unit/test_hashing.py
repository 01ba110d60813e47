"""The SHA-256 of a file: of chunks, of bytes that are read back, and of both."""

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.client.errors import LocalFileError
from streamer.client.hashing import READ_SIZE, FileHasher, sha256_of

CONTENT = bytes(range(256)) * (READ_SIZE // 128)  # two reads


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.part"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def hasher(path: Path) -> Iterator[FileHasher]:
    hasher = FileHasher(path)
    yield hasher
    hasher.close()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("content", [b"", CONTENT])
def test_the_hash_of_a_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert asyncio.run(sha256_of(path)) == sha256(content)


def test_bytes_are_read_up_to_the_position(hasher: FileHasher) -> None:
    hasher.read_to(10).result()
    assert (hasher.length, hasher.sha256) == (10, sha256(CONTENT[:10]))
    hasher.read_to(len(CONTENT)).result()
    assert (hasher.length, hasher.sha256) == (len(CONTENT), sha256(CONTENT))


def test_a_position_before_the_hashed_bytes_changes_nothing(hasher: FileHasher) -> None:
    hasher.read_to(10).result()
    hasher.read_to(5).result()
    assert (hasher.length, hasher.sha256) == (10, sha256(CONTENT[:10]))


def test_chunks_follow_the_bytes_that_were_read(hasher: FileHasher) -> None:
    hasher.read_to(len(CONTENT)).result()
    hasher.update(b"more").result()
    assert (hasher.length, hasher.sha256) == (len(CONTENT) + 4, sha256(CONTENT + b"more"))


def test_a_file_that_has_become_shorter_is_an_error(path: Path, hasher: FileHasher) -> None:
    path.write_bytes(CONTENT[:10])
    with pytest.raises(LocalFileError, match="has become shorter"):
        hasher.read_to(len(CONTENT)).result()
