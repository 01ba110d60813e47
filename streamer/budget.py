"""The memory budget: the size of each buffer x its largest number, plus the memory of the idle process.

The sizes are the constants that the code uses; the few that no constant decides were measured, and the tests measure
them again. This module allocates nothing: its sum shows whether the settings fit into a container.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from streamer.config import AUTO, Settings
from streamer.formats.compression import CUT
from streamer.http.api.request_bodies import BODIES_LIMIT
from streamer.http.download.completed import MAX_COPIED
from streamer.http.net.connection import HEADS_LIMIT
from streamer.http.net.large_responses import MAX_WAITING as MAX_WAITING_RESPONSES
from streamer.http.net.listener import SPARE_CONNECTIONS
from streamer.http.net.readiness import MIN_QUOTA
from streamer.http.net.send_buffers import max_queued_bytes
from streamer.jobs.representations.compressor import MAX_PIECE
from streamer.jobs.representations.making import WRITE_LIMITS
from streamer.logs import LOG_QUEUE
from streamer.postgres.row_limit import READ_SIZE
from streamer.source.cursors.blocks import HOLD_LIMIT
from streamer.spool.directory import HASH_BUFFER, HASHING
from streamer.spool.writer import MAX_GATHERED

KB, MB = 1024, 1024 * 1024

# Measured: see tests/memory.
BASE = 51 * MB  # an idle server after an hour of load: anonymous memory and the share of the kernel
FOLLOWER = 26 * KB  # its connection, request, response and open file, also in the kernel
CONNECTION = 10 * KB  # without a download, also in the kernel
SOCKET = 4 * MB  # of an unlimited download: the largest send buffer of the kernel (net.ipv4.tcp_wmem)
CODER = 640 * KB  # of Zstandard, in use; ISA-L has 352 kB
ZSTD = 448 * KB  # its library, which the base does not include
WAITING_EXPORT = 8 * KB
PARSING = 3584 * KB  # beside the largest body, with the largest number of values
SPEC = 2 * MB  # of 1,600 columns and 1000 values, while its rows are read
LOG_RECORD = KB
DOCUMENTATION = 2 * MB + 256 * KB  # every page as HTML, and the library that renders them


@dataclass(frozen=True, slots=True)
class Item:
    """`count` buffers of at most `size` bytes each."""

    name: str
    size: int
    count: int = 1

    @property
    def total(self) -> int:
        return self.size * self.count


def budget(settings: Settings) -> Sequence[Item]:
    """Returns the most memory that a server with these settings uses for each purpose, in bytes.

    EXPORT_CONNECTIONS must be a number: see server/export_connections.py for that of `auto`.
    """
    assert settings.export_connections != AUTO
    exports = settings.max_concurrent_exports
    connections = exports * settings.export_connections
    return (
        Item("the process itself", BASE),
        Item("downloads (MAX_DOWNLOADS)", FOLLOWER, settings.max_downloads),
        Item("other connections", CONNECTION + MIN_QUOTA, SPARE_CONNECTIONS),
        Item("queued in sockets", max_queued_bytes(settings.max_downloads, SOCKET)),
        Item("request heads", HEADS_LIMIT),
        Item("request bodies", BODIES_LIMIT),
        Item("a large request, while it is parsed", PARSING),
        Item("large answers", MAX_WAITING_RESPONSES),
        Item("waiting exports (MAX_QUEUED_EXPORTS)", WAITING_EXPORT, settings.max_queued_exports),
        Item("exports: their requests (MAX_CONCURRENT_EXPORTS)", SPEC, exports),
        Item("small bodies, copied", MAX_COPIED),
        Item("compressions (COMPRESSIONS)", CODER + CUT + MAX_PIECE, settings.compressions),
        Item("compressions: gathered and being written", 2 * WRITE_LIMITS.max_gathered, settings.compressions),
        Item("the library of Zstandard", ZSTD),
        Item("exports: gathered and being written", 2 * MAX_GATHERED, exports),
        Item("all connections: the buffer that they read into", READ_SIZE),
        Item("source connections: chunks (EXPORT_CONNECTIONS)", 2 * READ_SIZE, connections),
        Item("source connections beyond the first: early chunks", HOLD_LIMIT, connections - exports),
        Item("large rows (MAX_ROW_SIZE), one being assembled", settings.max_row_size, connections + 1),
        Item("files being hashed", HASH_BUFFER, HASHING),
        Item("documentation pages", DOCUMENTATION),
        Item("queued log lines", LOG_RECORD, LOG_QUEUE),
    )


def total(items: Sequence[Item]) -> int:
    """Returns the sum in bytes."""
    return sum(item.total for item in items)


def table(items: Sequence[Item]) -> str:
    """Returns one line for each item, and one for the sum."""
    lines = [f"{item.name:<53}{item.count:>5} x {item.size / KB:>6,.0f} kB{item.total / MB:>7.1f} MB" for item in items]
    return "\n".join([*lines, f"{'total':<70}{total(items) / MB:>7.1f} MB"])
