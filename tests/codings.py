"""The codings of an export as their clients see them: decoders that are not those of the server, and names."""

import sys
import zlib
from base64 import b64encode
from hashlib import sha256

from streamer.coding import Coding
from tests.rawhttp import Body, End

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GZIP_FORMAT = 16 + 15


class Decoding:
    """Decodes a body piece by piece; `decoded` is what can be decoded of the pieces so far."""

    def __init__(self, coding: Coding) -> None:
        self.decoded = bytearray()
        self._decompressor = zlib.decompressobj(GZIP_FORMAT) if coding is Coding.GZIP else zstd.ZstdDecompressor()

    @property
    def whole(self) -> bool:
        """Whether the one member or frame has ended with its checksum, and nothing follows it."""
        return self._decompressor.eof and not self._decompressor.unused_data

    def add(self, piece: bytes) -> None:
        if piece:
            self.decoded += self._decompressor.decompress(piece)


class Decoder:
    """Decodes a body while it is received."""

    def __init__(self, body: Body, coding: Coding) -> None:
        self.body = body
        self._taken = 0
        self._decoding = Decoding(coding)

    @property
    def decoded(self) -> bytearray:
        return self._decoding.decoded

    @property
    def whole(self) -> bool:
        return self._decoding.whole

    async def grow_to(self, length: int) -> bytes:
        """Returns the first `length` decoded bytes, as soon as they can be decoded."""
        while len(self.decoded) < length:
            await self.body.grow_to(self._taken + 1)
            self._decode()
        return bytes(self.decoded[:length])

    async def finish(self) -> End:
        end = await self.body.finish()
        self._decode()
        return end

    def _decode(self) -> None:
        self._decoding.add(bytes(self.body.received[self._taken :]))
        self._taken = len(self.body.received)


def decoded(coding: Coding, content: bytes) -> bytes:
    """Decodes a whole file, which must be one member or frame."""
    if coding is Coding.IDENTITY:
        return content
    decoding = Decoding(coding)
    decoding.add(content)
    assert decoding.whole, f"not one whole {coding} file"
    return bytes(decoding.decoded)


def resource(export_id: object, coding: Coding = Coding.IDENTITY) -> str:
    """The path of a representation as a resource of its own."""
    suffix = "" if coding is Coding.IDENTITY else coding.suffix
    return f"/exports/{export_id}/download{suffix}"


def media_type(coding: Coding) -> str:
    """That of an export with a header line."""
    return f"{coding.media_type}; charset=utf-8; header=present" if coding is Coding.IDENTITY else coding.media_type


def repr_digest(content: bytes) -> str:
    """The field for these bytes (RFC 9530)."""
    return f"sha-256=:{b64encode(sha256(content).digest()).decode()}:"
