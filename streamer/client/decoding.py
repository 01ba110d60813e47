"""Decodes compressed representations: gzip with the standard library, zstd where a decoder is installed.

Decoded bytes come in pieces of at most MAX_PIECE bytes, however well they were compressed.
"""

import zlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Protocol

from streamer.client.errors import Refused, VerificationFailed
from streamer.coding import Coding

MAX_PIECE = 1024 * 1024  # bytes
GZIP_FORMAT = 16 + zlib.MAX_WBITS  # zlib's code for a gzip header
NO_ZSTD = "zstd cannot be decoded here: install backports.zstd (Python 3.14 needs no package), or use gzip"


class Decoder(Protocol):
    """Decodes one gzip member or one zstd frame."""

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        """Yields decoded pieces. Raises VerificationFailed for bytes that are not compressed in this coding."""
        ...

    def end(self) -> None:
        """Raises VerificationFailed if the end is missing."""
        ...


def decoder_of(coding: Coding) -> Decoder:
    """Raises Refused if it cannot be decoded here."""
    return _ZstdDecoder() if coding is Coding.ZSTD else _GzipDecoder()


def ensure_decodable(coding: Coding) -> None:
    """Raises Refused."""
    if coding is not Coding.IDENTITY:
        decoder_of(coding)


class _GzipDecoder:
    def __init__(self) -> None:
        self._decompressor = zlib.decompressobj(GZIP_FORMAT)

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        rest, piece = chunk, b""
        while rest or len(piece) == MAX_PIECE:  # a full piece: there may be more, although all input was read
            if self._decompressor.eof:
                return self._refuse_rest(rest)
            try:
                piece = self._decompressor.decompress(rest, MAX_PIECE)
            except zlib.error as error:
                raise VerificationFailed(f"the gzip file cannot be decoded: {error}") from error
            rest = self._decompressor.unconsumed_tail or self._decompressor.unused_data
            if piece:
                yield piece

    def end(self) -> None:
        if not self._decompressor.eof:
            raise VerificationFailed("the gzip file cannot be decoded: its end is missing")

    def _refuse_rest(self, rest: bytes) -> None:
        if rest:
            raise VerificationFailed("the gzip file cannot be decoded: other bytes follow its end")


class _ZstdDecoder:
    def __init__(self) -> None:
        self._zstd = _zstd()
        self._decompressor: Any = self._zstd.ZstdDecompressor()

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        rest = chunk
        while rest or not (self._decompressor.eof or self._decompressor.needs_input):
            if self._decompressor.eof:
                raise VerificationFailed("the zstd file cannot be decoded: other bytes follow its end")
            try:
                piece = self._decompressor.decompress(rest, MAX_PIECE)
            except self._zstd.ZstdError as error:
                raise VerificationFailed(f"the zstd file cannot be decoded: {error}") from error
            rest = self._decompressor.unused_data  # the decompressor keeps the input that it has not decoded
            if piece:
                yield piece

    def end(self) -> None:
        if not self._decompressor.eof:
            raise VerificationFailed("the zstd file cannot be decoded: its end is missing")


def _zstd() -> ModuleType:
    """Returns the module of the standard library, or the package with the same interface. Raises Refused."""
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415 - from 3.14
    except ImportError:
        try:
            from backports import zstd  # noqa: PLC0415 - it need not be installed
        except ImportError as error:
            raise Refused(NO_ZSTD) from error
    found: ModuleType = zstd
    return found
