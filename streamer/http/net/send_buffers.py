"""How many bytes may wait in the kernel for the clients of downloads: a budget for all of them, and a quota for each.

Bytes that a client has not acknowledged stay in the send buffer of its socket, which counts against the memory of a
container like any other memory. By default the kernel lets a send buffer grow to megabytes. So every connection starts
with a buffer of `MIN_QUOTA` bytes, and only the first `MAX_UNLIMITED` downloads leave the size to the kernel. All
others share one budget: each may hold a fraction of what the others leave free, and returns bytes as its client takes
them. A client that keeps reading gets large writes and holds almost nothing. A client that stops holds its last write,
and the more clients stop, the smaller the quotas become, down to `MIN_QUOTA`, which every download has. (Choudhury and
Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998.)
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from aiohttp import web

from streamer.http.net.readiness import MIN_QUOTA, buffer_holding, buffer_writable_below, queued_bytes, set_send_buffer

MAX_UNLIMITED = 2  # downloads at once whose send buffers the kernel sizes
BUDGET = 4096 * 1024  # bytes that all other downloads may hold beyond their minimum quotas
BUDGET_FRACTION = 22  # one of them may hold 1/22 of what the others leave free
MAX_QUOTA = 256 * 1024  # bytes
INITIAL_BUFFER = 768 * 1024  # bytes of a send buffer that the kernel sizes, at first
SO_BUF_LOCK, SOCK_RCVBUF_LOCK = 72, 2  # asm-generic/socket.h, Linux 5.14: which buffers keep the size that was set


class SendBufferBudget:
    """The bytes that are free for downloads with a quota."""

    def __init__(self) -> None:
        self.free = BUDGET


class SendBufferQuota:
    """The part of the budget that one download holds. To be released when the download is over."""

    def __init__(self, budget: SendBufferBudget) -> None:
        self._budget = budget
        self._queued = 0  # bytes, at the last update
        self._borrowed = 0  # bytes of the budget
        self._buffer = 0  # bytes, as the kernel was told; 0 before that

    def writable(self, connection: socket.socket) -> int:
        """Returns how many bytes may be written that the socket takes at once, as of the last update.

        0 while more than a quarter of the quota is queued; epoll calls the socket writable once less is. If every few
        kilobytes woke the sender, a large crowd would keep it busy with waking.
        """
        quota = min(MIN_QUOTA + max(0, self._budget.free + self._borrowed) // BUDGET_FRACTION, MAX_QUOTA)
        few = max(quota // 4, MIN_QUOTA // 2)
        if self._queued > few:
            self._set_buffer(connection, buffer_writable_below(few))
            return 0
        self._set_buffer(connection, buffer_holding(quota))
        return quota - self._queued

    def update(self, connection: socket.socket) -> None:
        """Accounts for the bytes that are queued in the socket now."""
        self._queued = queued_bytes(connection)
        self._borrow(max(0, self._queued - MIN_QUOTA))

    def release(self) -> None:
        """Returns to the budget all that was borrowed."""
        self._borrow(0)

    def _borrow(self, size: int) -> None:
        self._budget.free += self._borrowed - size
        self._borrowed = size

    def _set_buffer(self, connection: socket.socket, size: int) -> None:
        if size != self._buffer:
            set_send_buffer(connection, size)
            self._buffer = size


SEND_BUFFER_QUOTA = web.RequestKey("send buffer quota", SendBufferQuota)


@contextmanager
def buffered(request: web.Request, budget: SendBufferBudget, *, limited: bool) -> Iterator[None]:
    """While the context is open, the connection may queue more than `MIN_QUOTA` bytes.

    If `limited`, it gets a quota of the budget, which the request then carries; otherwise the kernel sizes its buffer.
    """
    if request.transport is None:
        yield
        return
    connection: socket.socket = request.transport.get_extra_info("socket")
    quota = SendBufferQuota(budget)
    if limited:
        request[SEND_BUFFER_QUOTA] = quota
    else:
        _let_kernel_size_buffer(connection)
    try:
        yield
    finally:
        quota.release()
        if connection.fileno() >= 0:
            set_send_buffer(connection, MIN_QUOTA)


def _let_kernel_size_buffer(connection: socket.socket) -> None:
    """Has the kernel adapt the send buffer to the network again (tcp(7), tcp_wmem), from a large one on."""
    set_send_buffer(connection, INITIAL_BUFFER)
    with suppress(OSError):  # an older kernel keeps the size
        connection.setsockopt(socket.SOL_SOCKET, SO_BUF_LOCK, SOCK_RCVBUF_LOCK)


def max_queued_bytes(capacity: int, unlimited: int) -> int:
    """Returns the bytes that can be queued in the sockets of `capacity` downloads.

    `unlimited` is the size of a send buffer that the kernel has let grow, in bytes.
    """
    limited = max(0, capacity - MAX_UNLIMITED)
    return min(capacity, MAX_UNLIMITED) * unlimited + (BUDGET + limited * MIN_QUOTA if limited else 0)
