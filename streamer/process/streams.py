"""Standard streams that the parent process has closed (`2>&-`).

Python then has no such stream, and the next file or socket gets its descriptor number: output to the stream would go to
a client, or into an export.
"""

import os
import sys


def open_closed_streams() -> None:
    """Opens `/dev/null` as each closed stream. To be called before any other file is opened."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - they last as long as the process
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
