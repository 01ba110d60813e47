"""The libraries that compress: ISA-L for gzip, libzstd for zstd.

A coder makes one gzip member or one zstd frame. What it makes depends on its input, on how the input is cut, on where
it is flushed and on what its name says, so that the same bytes can be made again, in another process as well: no time
in the header, no threads, no dictionary.

Both levels were measured with the rows of the seeds. There, levels of zstd below 1 make more bytes than ISA-L and are
slower than it; those from 2 on take 20 % more time and twice the memory for 2 % less.
"""

import sys
from typing import Protocol

import isal
from isal import isal_zlib

from streamer.coding import Coding

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GZIP_LEVEL = 1
GZIP_FORMAT = 16 + 15  # zlib's code for a gzip header and the largest window
ZSTD_LEVEL = 1
# RFC 9659, 3: at most 8 MB. One cut of the compression is as good as more: a larger window costs memory, and makes less
# than 0.5 % of difference.
ZSTD_WINDOW_LOG = 18
ZSTD_OPTIONS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: ZSTD_LEVEL,
    zstd.CompressionParameter.window_log: ZSTD_WINDOW_LOG,
    zstd.CompressionParameter.checksum_flag: 1,
}


class Coder(Protocol):
    """Compresses one representation, piece by piece. Its calls take CPU time without the GIL: they are for a thread."""

    name: str  # what makes the bytes: library, version, level

    def compress(self, piece: bytes | memoryview) -> bytes:
        """Returns the bytes that are ready; the rest stays in the coder."""
        ...

    def flush(self) -> bytes:
        """Returns what stayed in the coder, so that everything up to here can be decoded."""
        ...

    def end(self) -> bytes:
        """Returns the last bytes; the coder cannot be used again."""
        ...


class _GzipCoder:
    name = f"isal {isal.__version__} (ISA-L {isal.ISAL_VERSION}), level {GZIP_LEVEL}"

    def __init__(self) -> None:
        self._compressor = isal_zlib.compressobj(GZIP_LEVEL, isal_zlib.DEFLATED, GZIP_FORMAT)

    def compress(self, piece: bytes | memoryview) -> bytes:
        return self._compressor.compress(piece)

    def flush(self) -> bytes:
        return self._compressor.flush(isal_zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._compressor.flush(isal_zlib.Z_FINISH)


class _ZstdCoder:
    # Without the Python package: libzstd alone decides the bytes, and the standard library's makes the same.
    name = f"zstd {zstd.zstd_version}, level {ZSTD_LEVEL}, window 2^{ZSTD_WINDOW_LOG}"

    def __init__(self) -> None:
        self._compressor = zstd.ZstdCompressor(options=ZSTD_OPTIONS)

    def compress(self, piece: bytes | memoryview) -> bytes:
        return self._compressor.compress(piece)

    def flush(self) -> bytes:
        return self._compressor.flush(zstd.ZstdCompressor.FLUSH_BLOCK)

    def end(self) -> bytes:
        return self._compressor.flush(zstd.ZstdCompressor.FLUSH_FRAME)


CODERS: dict[Coding, type[_GzipCoder] | type[_ZstdCoder]] = {Coding.GZIP: _GzipCoder, Coding.ZSTD: _ZstdCoder}


def coder(coding: Coding) -> Coder:
    """Returns a new coder for gzip or zstd."""
    return CODERS[coding]()


def coder_name(coding: Coding) -> str:
    """Returns the name of the coders for gzip or zstd: another name may make other bytes of the same input."""
    return CODERS[coding].name
