"""How a connection ends before its time: closed behind what it still holds (FIN), or reset without that (RST).

A reset is seen by every client, wherever in a body it comes, but only by those who are connected directly: a TCP relay
passes on what it has got so far and then a FIN. Also a reset frees the memory of what the client has not taken.
"""

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

LINGER_AND_RESET = struct.pack("ii", 1, 0)
NO_LINGER = struct.pack("ii", 0, 0)


def reset(transport: asyncio.Transport) -> None:
    """What is not sent yet is dropped."""
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        _set_linger(connection, LINGER_AND_RESET)
    transport.abort()


@contextmanager
def whole_or_reset(transport: asyncio.Transport) -> Iterator[None]:
    """What is done within comes to its end, or the connection is reset, also by the death of the process."""
    connection: socket.socket = transport.get_extra_info("socket")
    _set_linger(connection, LINGER_AND_RESET)
    try:
        yield
    except BaseException:
        reset(transport)
        raise
    _set_linger(connection, NO_LINGER)


def _set_linger(connection: socket.socket, value: bytes) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, value)
