"""Opens many connections that ask nothing, in a process of its own, and says what became of them.

    python -m tests.memory.idlers HOST PORT COUNT

It writes a line of JSON, `Outcome`, and keeps what is open until a line comes on stdin.
"""

import resource
import selectors
import socket
import sys
import time

import msgspec

SETTLED = 3.0  # seconds in which nothing more happens


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How many connections stay open, were refused with a 503, or were closed without a word."""

    open: int
    refused: int
    reset: int


def main() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    address, count = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3])
    selector = selectors.DefaultSelector()
    refused = reset = 0
    for _ in range(count):
        try:
            connection = socket.create_connection(address, timeout=10)
        except OSError:
            reset += 1
        else:
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ)
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < SETTLED:
        for key, _ in selector.select(0.1):
            ready = key.fileobj
            assert isinstance(ready, socket.socket)
            try:
                polite = ready.recv(4096).startswith(b"HTTP/1.1 503 ")
            except ConnectionError:
                polite = False
            refused, reset = refused + polite, reset + (not polite)
            selector.unregister(ready)
            ready.close()
            quiet_since = time.monotonic()
    outcome = Outcome(open=len(selector.get_map()), refused=refused, reset=reset)
    sys.stdout.write(msgspec.json.encode(outcome).decode() + "\n")
    sys.stdout.flush()
    sys.stdin.readline()


if __name__ == "__main__":
    main()
