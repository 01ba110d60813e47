"""Decoders of gzip and zstd: whole, byte by byte, with a damaged or missing end, in pieces of a limited length."""

import gzip
import random
import sys
import zlib
from collections.abc import Callable

import pytest

from streamer.client.decoding import MAX_PIECE, decoder_of, ensure_decodable
from streamer.client.errors import Refused, VerificationFailed
from streamer.coding import COMPRESSED, Coding
from streamer.formats.coders import coder

CONTENT = random.Random(4).randbytes(5000) + b"id,text\n" * 300
LARGE = bytes(3 * MAX_PIECE + 7)
every_coding = pytest.mark.parametrize("coding", COMPRESSED)


def encoded(coding: Coding, content: bytes) -> bytes:
    made = coder(coding)
    return made.compress(content[:3000]) + made.flush() + made.compress(content[3000:]) + made.end()


def decoded(coding: Coding, chunks: list[bytes]) -> list[bytes]:
    decoder = decoder_of(coding)
    pieces = [piece for chunk in chunks for piece in decoder.decode(chunk)]
    decoder.end()
    return pieces


def whole(content: bytes) -> list[bytes]:
    return [content]


def byte_by_byte(content: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in content]


@every_coding
@pytest.mark.parametrize("cut", [whole, byte_by_byte])
def test_what_the_server_makes_is_decoded(coding: Coding, cut: Callable[[bytes], list[bytes]]) -> None:
    assert b"".join(decoded(coding, cut(encoded(coding, CONTENT)))) == CONTENT


@every_coding
@pytest.mark.parametrize("length", [MAX_PIECE - 1, MAX_PIECE, MAX_PIECE + 1, 2 * MAX_PIECE, len(LARGE)])
@pytest.mark.parametrize("cut", [whole, byte_by_byte])
def test_no_piece_is_longer_than_the_limit(coding: Coding, length: int, cut: Callable[[bytes], list[bytes]]) -> None:
    pieces = decoded(coding, cut(encoded(coding, LARGE[:length])))
    assert b"".join(pieces) == LARGE[:length]
    assert max(map(len, pieces)) <= MAX_PIECE


@every_coding
def test_bytes_that_were_flushed_are_decoded_at_once(coding: Coding) -> None:
    made = coder(coding)
    flushed = made.compress(b"id\n1\n") + made.flush()
    assert b"".join(decoder_of(coding).decode(flushed)) == b"id\n1\n"


@every_coding
@pytest.mark.parametrize("missing", [1, 8, 100])
def test_a_missing_end_is_an_error(coding: Coding, missing: int) -> None:
    with pytest.raises(VerificationFailed, match=f"the {coding} file cannot be decoded: its end is missing"):
        decoded(coding, [encoded(coding, CONTENT)[:-missing]])


@every_coding
@pytest.mark.parametrize("cut", [whole, byte_by_byte])
@pytest.mark.parametrize("rest", [b"x", encoded(Coding.GZIP, b"another member")])
def test_bytes_behind_the_end_are_an_error(coding: Coding, rest: bytes, cut: Callable[[bytes], list[bytes]]) -> None:
    with pytest.raises(VerificationFailed, match="other bytes follow its end"):
        decoded(coding, cut(encoded(coding, CONTENT) + rest))


@every_coding
def test_other_bytes_are_an_error(coding: Coding) -> None:
    with pytest.raises(VerificationFailed, match=f"the {coding} file cannot be decoded: "):
        decoded(coding, [b"id,text\n" * 100])


def test_a_wrong_checksum_is_an_error() -> None:
    damaged = bytearray(encoded(Coding.GZIP, CONTENT))
    damaged[-8] ^= 1
    with pytest.raises(VerificationFailed, match="incorrect data check"):
        decoded(Coding.GZIP, [bytes(damaged)])


def test_what_stays_in_zlib_when_a_piece_is_full_is_not_held_back() -> None:
    """zlib may have read all input by then, in the middle of a match."""
    compressed = gzip.compress(LARGE)
    held_back = 0
    for cut in range(len(compressed) // 3 - 50, len(compressed) // 3 + 50):
        chunk, limited = compressed[:cut], zlib.decompressobj(31)
        available = len(zlib.decompressobj(31).decompress(chunk))
        held_back += len(limited.decompress(chunk, MAX_PIECE)) < available and not limited.unconsumed_tail
        assert sum(map(len, decoder_of(Coding.GZIP).decode(chunk))) == available
    assert held_back, "no cut shows it"


def test_zstd_without_a_decoder_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compression", "compression.zstd", "backports", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    ensure_decodable(Coding.IDENTITY)
    ensure_decodable(Coding.GZIP)
    with pytest.raises(Refused, match=r"install backports\.zstd"):
        ensure_decodable(Coding.ZSTD)
