"""Asks /health again and again on one connection, from a process of its own, and says how long the answers took.

    python -m tests.memory.poller HOST PORT INTERVAL

It writes a line when the first answer is there, goes on asking every INTERVAL seconds until a line comes on stdin, and
then writes a line of JSON: `Latencies`. An answer that
takes longer than the interval keeps the next question from being asked; what that one would have waited is counted too.
"""

import os
import select
import socket
import sys
import time

import msgspec

QUESTION = b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n"
NICE = -15  # what measures must not wait for what is measured


class Latencies(msgspec.Struct, frozen=True, kw_only=True):
    """In seconds."""

    answers: int
    median: float
    p99: float
    worst: float

    @property
    def sentence(self) -> str:
        median, p99, worst = (f"{1000 * value:.1f}" for value in (self.median, self.p99, self.worst))
        return f"/health {self.answers} answers, median {median} ms, p99 {p99} ms, worst {worst} ms"


def poll(address: tuple[str, int], interval: float) -> Latencies:
    taken: list[float] = []
    with socket.create_connection(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due = time.perf_counter()
        while not select.select([sys.stdin], [], [], max(0.0, due - time.perf_counter()))[0]:
            asked = time.perf_counter()
            connection.sendall(QUESTION)
            answer = b""
            while not answer.endswith(b"}"):
                piece = connection.recv(4096)
                if not piece:
                    raise ConnectionResetError("the server has closed the connection")
                answer += piece
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            took = time.perf_counter() - asked
            if not taken:
                sys.stdout.write("polling\n")
                sys.stdout.flush()
            while took > 0:
                taken.append(took)
                took -= interval
            due = max(due + interval, time.perf_counter())
    taken.sort()
    return Latencies(
        answers=len(taken), median=taken[len(taken) // 2], p99=taken[int(len(taken) * 0.99)], worst=taken[-1]
    )


def main() -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except PermissionError:
        sys.stderr.write("the poller runs at the priority of everybody else\n")
    found = poll((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]))
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")


if __name__ == "__main__":
    main()
