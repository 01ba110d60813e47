"""Standard streams that whoever started the process has closed (`2>&-`).

Python has none then, and the next file or socket that is opened gets the number of the stream: what is written to the
stream goes to a client, or into an export.
"""

import os
import sys


def open_closed_streams() -> None:
    """To be called before anything is opened that stays open: what is closed becomes `/dev/null`."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - they last as long as the process
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
