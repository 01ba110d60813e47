"""A PostgreSQL whose COPY costs next to nothing: a relay that answers COPY itself, with rows that were made beforehand.

    python -m tests.bench.replay SOCKET OWN_SOCKET --blocks 25000 [--rows-per-block 400] [--rate MB]

Everything else (the catalog, snapshots, locks, plans) is answered by the real server, which listens on SOCKET. A COPY
of a range of blocks gets `rows-per-block` rows for each block, any other COPY gets those of all `blocks`; the rows are
those of `users`, whatever the query is. With `--rate` a connection delivers at most so many MB a second, as that of a
slow server does. It prints a line when it listens on OWN_SOCKET. Each connection has two threads, which do not hold the
lock of the interpreter while they send.
"""

import argparse
import re
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from tests import seeds

BLOCKS = re.compile(rb"ctid >= '\((\d+),0\)'::pg_catalog\.tid AND ctid < '\((\d+),0\)'")
COLUMNS = len(seeds.COLUMNS)
SSL_REQUEST = 80877103
PIECE = 1 << 20  # bytes that are sent at once, at least one block


def message(kind: bytes, payload: bytes) -> bytes:
    return kind + (4 + len(payload)).to_bytes(4) + payload


COPY_BEGINS = message(b"H", b"\0" + COLUMNS.to_bytes(2) + bytes(2 * COLUMNS))
IN_TRANSACTION = message(b"Z", b"T")


@dataclass(frozen=True)
class Rows:
    """The rows of one block as messages, `repeats` blocks in one piece."""

    per_block: int
    blocks: int  # of the whole table
    block: bytes
    repeats: int
    piece: memoryview

    @classmethod
    def made(cls, per_block: int, blocks: int) -> "Rows":
        records = seeds.csv_bytes(seeds.rows(per_block), header=False)
        block = b"".join(message(b"d", record) for record in records)
        repeats = max(1, PIECE // len(block))
        return cls(per_block, blocks, block, repeats, memoryview(block * repeats))

    def send(self, client: socket.socket, sql: bytes, rate: float | None) -> None:
        """Answers a COPY, at most `rate` bytes a second."""
        found = BLOCKS.search(sql)
        first, stop = map(int, found.groups()) if found else (0, self.blocks)
        client.sendall(COPY_BEGINS)
        began, sent = time.monotonic(), 0
        for at in range(first, stop, self.repeats):
            size = min(self.repeats, stop - at) * len(self.block)
            client.sendall(self.piece[:size])
            sent += size
            if rate is not None:
                time.sleep(max(0.0, began + sent / rate - time.monotonic()))
        tag = b"COPY %d\0" % (self.per_block * (stop - first))
        client.sendall(message(b"c", b"") + message(b"C", tag) + IN_TRANSACTION)


class Reader:
    """Reads whole messages of a client."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client

    def exactly(self, count: int) -> bytes:
        """Raises ConnectionError at the end of the stream."""
        found = b""
        while len(found) < count:
            data = self._client.recv(count - len(found))
            if not data:
                raise ConnectionResetError
            found += data
        return found

    def startup(self) -> bytes:
        size = self.exactly(4)
        return size + self.exactly(int.from_bytes(size) - 4)

    def message(self) -> bytes:
        head = self.exactly(5)
        return head + self.exactly(int.from_bytes(head[1:]) - 4)


def serve(client: socket.socket, address: str, rows: Rows, rate: float | None) -> None:
    """Relays one connection to its end."""
    reader = Reader(client)
    with client, suppress(ConnectionError), socket.socket(socket.AF_UNIX) as server:
        startup = reader.startup()
        if int.from_bytes(startup[4:8]) == SSL_REQUEST:
            client.sendall(b"N")
            startup = reader.startup()
        server.connect(address)
        server.sendall(startup)
        threading.Thread(target=pump, args=(server, client), daemon=True).start()
        while True:
            sent = reader.message()
            if sent[:1] == b"Q" and sent[5:].startswith(b"COPY "):
                rows.send(client, sent, rate)
            else:
                server.sendall(sent)


def pump(server: socket.socket, client: socket.socket) -> None:
    """Passes on what the server answers; it is silent while a COPY is replayed."""
    with suppress(OSError):
        while data := server.recv(1 << 16):
            client.sendall(data)


def main(arguments: argparse.Namespace) -> None:
    rows = Rows.made(arguments.rows_per_block, arguments.blocks)
    rate = arguments.rate * 1e6 if arguments.rate else None
    with socket.create_server(arguments.own_socket, family=socket.AF_UNIX) as listener:
        print("listening", flush=True)
        while True:
            client, _ = listener.accept()
            threading.Thread(target=serve, args=(client, arguments.socket, rows, rate), daemon=True).start()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("socket")
    parser.add_argument("own_socket")
    parser.add_argument("--blocks", type=int, required=True)
    parser.add_argument("--rows-per-block", type=int, default=400)
    parser.add_argument("--rate", type=float)
    main(parser.parse_args())
