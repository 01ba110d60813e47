"""Closing a file that may have been removed.

The blocks of a removed file are freed when its last descriptor is closed. For a gigabyte that takes a quarter of a
second and more, so it is done in a thread.
"""

import os
from concurrent.futures import Executor
from typing import BinaryIO


def close(file: BinaryIO, executor: Executor) -> None:
    if os.fstat(file.fileno()).st_nlink:
        file.close()
    else:
        executor.submit(file.close)
