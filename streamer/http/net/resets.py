"""Ends a connection early: by closing it behind the data that it holds (FIN), or by a reset that drops them (RST).

Every client notices a reset, wherever in a body it comes, but only if it is connected directly: a TCP relay forwards
the data that it has, and then a FIN. A reset also frees the memory of data that the client has not taken.
"""

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

LINGER_AND_RESET = struct.pack("ii", 1, 0)
NO_LINGER = struct.pack("ii", 0, 0)


def reset(transport: asyncio.Transport) -> None:
    """Resets the connection. Data that have not been sent are dropped."""
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        _set_linger(connection, LINGER_AND_RESET)
    transport.abort()


@contextmanager
def whole_or_reset(transport: asyncio.Transport) -> Iterator[None]:
    """If the context is not left normally, the connection is reset; if the process dies within it, too (socket(7))."""
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
