"""Ports for who has to be told one before it listens, or must find nobody there.

The kernel hands out ports of its own range to everybody who takes any: one of those may be somebody else's a moment
after it was found free. These lie below that range, where a port is taken only by who asks for it by its number.
"""

import random
import socket
from contextlib import ExitStack, suppress

BELOW = range(20_000, 30_000)


def free_ports(number: int) -> list[int]:
    """So many different ones."""
    chance = random.SystemRandom()
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < number:
            port = chance.choice(BELOW)
            with suppress(OSError):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
    return found


def free_port() -> int:
    return free_ports(1)[0]
