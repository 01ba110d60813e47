"""multipart/byteranges: RFC 9110, 14.6. Several slices of one export in one body of known length."""

from collections.abc import Sequence
from secrets import token_hex

from streamer.http.download.delivery import Part
from streamer.protocol.ranges import Slice, content_range


def byteranges(slices: Sequence[Slice], length: int, content_type: str) -> tuple[str, list[Part]]:
    """The Content-Type of the whole, and its parts: heads as bytes, slices as they are.

    The boundary is random, so that no export can hold it.
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
