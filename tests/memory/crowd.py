"""A crowd of followers in a process of its own, so that what it costs is not counted as the server's.

    python -m tests.memory.crowd < orders

The first line of stdin is the orders, JSON: `Orders`. When every follower has its answer's head, a line `there` is
written. Those who read to the end are waited for; the others, if there are any, go on until a line comes on stdin. At
last a line of JSON is written for each follower: `Followed`.

The framing is checked here, and of every byte of every body the CRC-32 is taken, after decompression: it is what costs
next to nothing. `digest` asks for the SHA-256 as well.
"""

import hashlib
import heapq
import os
import selectors
import socket
import sys
import time
from typing import Any

import msgspec
from isal import isal_zlib

BUFFER = 512 * 1024  # bytes read at a time, by all
TICK = 0.1  # seconds between two reads of one who is slow
GZIP_FORMAT = 16 + 15


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """`pace` is in bytes a second; one who stops takes so many bytes and then nothing, but stays."""

    path: str
    start: int | None = None  # asks for the range from here on
    pace: int | None = None
    stop: int | None = None
    gzip: bool = False
    digest: bool = False
    receive_buffer: int | None = None  # bytes


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    port: int
    followers: list[Order]


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """What one has got: `size` bytes from `start` on. `end` is whole, open, or how the connection broke."""

    status: int
    gzip: bool
    start: int
    size: int
    crc: int
    digest: str | None
    end: str
    wire: int  # bytes of the body as they came


class Follower:
    def __init__(self, order: Order) -> None:
        self.order = order
        self.status = 0
        self.gzip = False
        self.size = 0
        self.wire = 0
        self.end = "open"
        self._crc = 0
        self._digest = hashlib.sha256() if order.digest else None
        self._head = bytearray()
        self._line = bytearray()
        self._chunked = False
        self._left: int | None = None  # of the body or of this chunk; None before its head
        self._last = False  # whether this is the last chunk
        self._unzip: Any = None

    @property
    def slow(self) -> bool:
        return self.order.pace is not None

    @property
    def satisfied(self) -> bool:
        """Has what it wanted, and stays."""
        return self.order.stop is not None and self.size >= self.order.stop

    def request(self, host: str) -> bytes:
        lines = [f"GET {self.order.path} HTTP/1.1", f"Host: {host}"]
        if self.order.start is not None:
            lines.append(f"Range: bytes={self.order.start}-")
        if self.order.gzip:
            lines.append("Accept-Encoding: gzip")
        return "\r\n".join([*lines, "", ""]).encode()

    def feed(self, view: memoryview) -> None:
        """Takes what came."""
        if not self.status:
            self._head += view
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            self._read_head(bytes(self._head[:end]).decode("latin-1"))
            view = memoryview(bytes(self._head[end + 4 :]))
        while view and self.end == "open":
            view = self._body(view) if self._left else self._framing(view)

    def closed(self, how: str) -> None:
        if self.end == "open":
            self.end = how

    def report(self) -> Followed:
        return Followed(
            status=self.status,
            gzip=self.gzip,
            start=self.order.start or 0,
            size=self.size,
            crc=self._crc,
            digest=self._digest.hexdigest() if self._digest else None,
            end=self.end,
            wire=self.wire,
        )

    def _read_head(self, head: str) -> None:
        status, *lines = head.split("\r\n")
        self.status = int(status.split()[1])
        fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        self._chunked = "transfer-encoding" in fields
        self._left = None if self._chunked else int(fields["content-length"])
        self.gzip = fields.get("content-encoding") == "gzip"
        if self.gzip:
            self._unzip = isal_zlib.decompressobj(GZIP_FORMAT)
        if self._left == 0:
            self.end = "whole"

    def _body(self, view: memoryview) -> memoryview:
        assert self._left is not None
        piece, rest = view[: self._left], view[self._left :]
        self._left -= len(piece)
        self.wire += len(piece)
        self._take(self._unzip.decompress(piece) if self._unzip else piece)
        if not self._left and not self._chunked:
            self.end = "whole"
        return rest

    def _take(self, piece: memoryview | bytes) -> None:
        self.size += len(piece)
        self._crc = isal_zlib.crc32(piece, self._crc)
        if self._digest:
            self._digest.update(piece)

    def _framing(self, view: memoryview) -> memoryview:
        """A line: the end of a chunk, the head of one, or what follows the last one."""
        text = bytes(view[:64])
        cut = text.find(b"\n") + 1 or len(text)
        self._line += text[:cut]
        if self._line.endswith(b"\n"):
            self._read_line(bytes(self._line).removesuffix(b"\r\n"))
            self._line.clear()
        return view[cut:]

    def _read_line(self, line: bytes) -> None:
        if self._left is None:  # the head of a chunk
            self._left = int(line, 16)
            self._last = self._left == 0
        elif line:
            self.end = f"bad framing: {line[:40]!r}"
        elif self._last:
            self.end = "bad gzip" if self._unzip and not self._unzip.eof else "whole"
        else:
            self._left = None


class Crowd:
    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._followers = [Follower(order) for order in orders.followers]
        self._sockets: dict[Follower, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._due: list[tuple[float, int, Follower]] = []  # the slow ones, by when they read next
        self._buffer = bytearray(BUFFER)
        self._told = False
        self._stopped = False

    def run(self) -> None:
        self._selector.register(sys.stdin, selectors.EVENT_READ, self._stop)
        for follower in self._followers:
            self._connect(follower)
            self._turn(0)
        stay = any(not self._reads_to_the_end(follower) for follower in self._followers)
        while (stay and not self._stopped) or any(map(self._reads_to_the_end, self._sockets)):
            self._turn(self._until_due())
            self._read_slow()
            self._tell()
        for follower in self._followers:
            sys.stdout.write(msgspec.json.encode(follower.report()).decode() + "\n")
        sys.stdout.flush()

    def _connect(self, follower: Follower) -> None:
        connection = socket.socket()
        if follower.order.receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, follower.order.receive_buffer)
        connection.connect((self._orders.host, self._orders.port))
        connection.setblocking(False)
        connection.send(follower.request(self._orders.host))
        self._sockets[follower] = connection
        self._selector.register(connection, selectors.EVENT_READ, follower)

    def _turn(self, wait: float | None) -> None:
        for key, _ in self._selector.select(wait):
            if isinstance(key.data, Follower):
                self._read(key.data, BUFFER)
            else:
                key.data()

    def _read(self, follower: Follower, most: int) -> int:
        """The bytes that came; 0 if there is nothing to read now."""
        connection = self._sockets[follower]
        if not follower.status:
            most = 1024
        elif follower.order.stop is not None:
            most = max(1, min(most, follower.order.stop - follower.size))
        try:
            got = connection.recv_into(self._buffer, most)
        except BlockingIOError:
            return 0
        except ConnectionError as error:
            return self._leave(follower, type(error).__name__)
        if not got:
            return self._leave(follower, "closed")
        headless = not follower.status
        follower.feed(memoryview(self._buffer)[:got])
        if follower.end != "open":
            self._leave(follower, follower.end)
        elif follower.satisfied:
            self._selector.unregister(connection)
        elif headless and follower.status and follower.slow:
            self._selector.unregister(connection)
            heapq.heappush(self._due, (time.monotonic(), id(follower), follower))
        return got

    def _leave(self, follower: Follower, how: str) -> int:
        follower.closed(how)
        connection = self._sockets.pop(follower)
        if not (follower.slow and follower.status):
            self._selector.unregister(connection)
        connection.close()
        return 0

    def _read_slow(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            due, _, follower = heapq.heappop(self._due)
            left = round((follower.order.pace or 0) * TICK)
            while left > 0 and follower in self._sockets and (got := self._read(follower, left)):
                left -= got
            if follower in self._sockets:
                heapq.heappush(self._due, (due + TICK, id(follower), follower))

    def _until_due(self) -> float | None:
        return max(0.0, self._due[0][0] - time.monotonic()) if self._due else None

    def _tell(self) -> None:
        if not self._told and all(follower.status or follower.end != "open" for follower in self._followers):
            self._told = True
            sys.stdout.write("there\n")
            sys.stdout.flush()

    def _reads_to_the_end(self, follower: Follower) -> bool:
        return not follower.slow and follower.order.stop is None

    def _stop(self) -> None:
        os.read(0, 1)
        self._selector.unregister(sys.stdin)
        self._stopped = True


def main() -> None:
    orders = msgspec.json.decode(_line(), type=Orders)
    Crowd(orders).run()


def _line() -> bytes:
    """The first line of stdin, and no byte more."""
    line = bytearray()
    while not line.endswith(b"\n"):
        line += os.read(0, 1)
    return bytes(line)


if __name__ == "__main__":
    main()
