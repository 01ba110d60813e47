"""multipart/byteranges (RFC 9110, 14.6): several slices of one export in one body of known length."""

from collections.abc import Sequence
from secrets import token_hex

from streamer.http.download.delivery import Part
from streamer.protocol.ranges import Slice, content_range


def byteranges(slices: Sequence[Slice], length: int, content_type: str) -> tuple[str, list[Part]]:
    """Returns the Content-Type of the body, and its parts: part headers as bytes, and the slices themselves.

    `length` is that of the export in bytes. The boundary is random, so that no export can contain it.
    """
    boundary = token_hex(16)
    parts: list[Part] = []
    line_end = ""
    for piece in slices:
        head = (
            f"{line_end}--{boundary}\r\n"
            f"Content-Type: {content_type}\r\n"
            f"Content-Range: {content_range(piece, length)}\r\n\r\n"
        )
        parts += [head.encode(), piece]
        line_end = "\r\n"
    parts.append(f"\r\n--{boundary}--\r\n".encode())
    return f"multipart/byteranges; boundary={boundary}", parts
