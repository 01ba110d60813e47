"""The coders: one member or frame, decoded by other libraries, the same bytes in every process."""

import gzip
import re
import shutil
import subprocess
import sys
import zlib
from hashlib import sha256

import pytest

from streamer.coding import COMPRESSED, Coding
from streamer.formats.coders import Coder, coder, coder_name
from tests import seeds

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CUT = 256 * 1024
USERS = b"".join(seeds.csv_bytes(seeds.rows(20_000)))
FLUSHED = 1_000_000  # an offset between two cuts
MAX_WINDOW = 8 * 1024 * 1024  # RFC 9659, 3
GZIP_FORMAT = 16 + 15

both = pytest.mark.parametrize("coding", COMPRESSED)


class Decoder:
    """Decodes one member or one frame, and shows what follows it."""

    def __init__(self, coding: Coding) -> None:
        self._decoder = zlib.decompressobj(GZIP_FORMAT) if coding is Coding.GZIP else zstd.ZstdDecompressor()

    def decode(self, piece: bytes) -> bytes:
        return self._decoder.decompress(piece)

    @property
    def ended(self) -> bool:
        return self._decoder.eof

    @property
    def surplus(self) -> bytes:
        return self._decoder.unused_data


def pieces(coder: Coder, content: bytes, flushed: int) -> list[bytes]:
    """The compressed bytes: up to the flush, and the rest."""
    made: list[bytes] = []
    for part, finish in ((content[:flushed], coder.flush), (content[flushed:], coder.end)):
        cuts = [part[start : start + CUT] for start in range(0, len(part), CUT)]
        made.append(b"".join(map(coder.compress, cuts)) + finish())
    return made


@both
def test_flushed_bytes_are_decoded_before_the_end_is_made(coding: Coding) -> None:
    begun, rest = pieces(coder(coding), USERS, FLUSHED)
    decoder = Decoder(coding)
    assert decoder.decode(begun) == USERS[:FLUSHED]
    assert not decoder.ended
    assert decoder.decode(rest) == USERS[FLUSHED:]
    assert decoder.ended
    assert not decoder.surplus


@both
@pytest.mark.parametrize("content", [b"", b"x", bytes(CUT), USERS[:CUT]], ids=["empty", "short", "zeros", "cut"])
def test_bytes_without_a_flush_are_one_member(coding: Coding, content: bytes) -> None:
    made = coder(coding)
    decoder = Decoder(coding)
    assert decoder.decode(made.compress(content) + made.end()) == content
    assert decoder.ended
    assert not decoder.surplus


@both
def test_memoryview_and_bytes_are_compressed_alike(coding: Coding) -> None:
    ours, theirs = coder(coding), coder(coding)
    viewed = ours.compress(memoryview(USERS)[:CUT]) + ours.end()
    assert viewed == theirs.compress(USERS[:CUT]) + theirs.end()


AGAIN = """
import sys
from hashlib import sha256
from streamer.coding import Coding
from tests.unit.test_coders import FLUSHED, USERS, coder, pieces

print(sha256(b"".join(pieces(coder(Coding(sys.argv[1])), USERS, FLUSHED))).hexdigest())
"""


@both
def test_another_process_makes_the_same_bytes(coding: Coding) -> None:
    ours = sha256(b"".join(pieces(coder(coding), USERS, FLUSHED))).hexdigest()
    made = subprocess.run([sys.executable, "-c", AGAIN, coding], check=True, capture_output=True, text=True)
    assert made.stdout.strip() == ours


@both
def test_damage_is_found_by_the_checksum(coding: Coding) -> None:
    made = coder(coding)
    compressed = made.compress(USERS) + made.end()
    at = -5 if coding is Coding.GZIP else -1  # the CRC, which stands before the length; the checksum
    damaged = bytearray(compressed)
    damaged[at] ^= 1
    with pytest.raises((zlib.error, zstd.ZstdError)):
        Decoder(coding).decode(bytes(damaged))


def test_gzip_header_has_neither_time_nor_name() -> None:
    made = coder(Coding.GZIP)
    header = (made.compress(USERS) + made.end())[:10]
    assert header[:3] == b"\x1f\x8b\x08"
    assert header[3] == 0  # no name, no comment: RFC 1952, 2.3.1
    assert header[4:8] == bytes(4)


def test_zstd_frame_has_a_checksum_a_small_window_and_no_dictionary() -> None:
    made = coder(Coding.ZSTD)
    frame = made.compress(USERS) + made.end()
    # RFC 8878, 3.1.1
    assert frame[:4] == b"\x28\xb5\x2f\xfd"
    descriptor = frame[4]
    assert not descriptor & 0x20, "a single segment has a window as large as its content"
    assert descriptor & 0x04, "no checksum"
    assert not descriptor & 0x03, "a dictionary"
    exponent, mantissa = divmod(frame[5], 8)
    window = (1 << (10 + exponent)) * (8 + mantissa) // 8
    assert CUT <= window <= MAX_WINDOW


@pytest.mark.parametrize(("coding", "program"), [(Coding.GZIP, "gzip"), (Coding.ZSTD, "zstd")])
def test_programs_of_the_system_accept_the_bytes(coding: Coding, program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    compressed = b"".join(pieces(coder(coding), USERS, FLUSHED))
    assert subprocess.run([program, "-dc"], input=compressed, check=True, capture_output=True).stdout == USERS


def test_compressed_rows_are_smaller_with_zstd_than_with_gzip() -> None:
    sizes = {coding: sum(map(len, pieces(coder(coding), USERS, FLUSHED))) for coding in COMPRESSED}
    assert sizes[Coding.ZSTD] < sizes[Coding.GZIP] < 1.1 * len(gzip.compress(USERS, 1))


@pytest.mark.parametrize(
    ("coding", "form"),
    [
        (Coding.GZIP, r"isal \d+\.\d+\.\d+ \(ISA-L \d+\.\d+\.\d+\), level \d"),
        (Coding.ZSTD, r"zstd \d+\.\d+\.\d+, level \d, window 2\^\d+"),
    ],
)
def test_name_says_library_version_and_level(coding: Coding, form: str) -> None:
    assert re.fullmatch(form, coder_name(coding))
    assert coder(coding).name == coder_name(coding)
