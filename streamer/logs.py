"""Logs to stderr that never block the event loop.

A write to stderr blocks while its reader is slow, and for ever once a pipe without a reader is full. A thread therefore
writes the records, which wait in a queue of a fixed size.
"""

import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging.handlers import QueueHandler, QueueListener
from typing import cast

from pythonjsonlogger.json import JsonFormatter

from streamer.config import LogFormat

LOG_QUEUE = 400  # records
DRAIN_TIMEOUT = 2.0  # seconds for the records in the queue at the end


@contextmanager
def logging_to_stderr(log_format: LogFormat) -> Iterator[None]:
    """Logs to stderr while the context is open, in JSON one line for each record.

    Records beyond `LOG_QUEUE` waiting ones are dropped, and counted.
    """
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    if log_format is LogFormat.JSON:
        formatter = JsonFormatter(["asctime", "levelname", "name", "message"])
    records: queue.Queue[logging.LogRecord] = queue.Queue(LOG_QUEUE)
    handler = DroppingQueueHandler(records)
    handler.setFormatter(logging.Formatter("%(message)s"))  # the thread adds the other fields
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    listener = DrainingListener(records, cast("logging.Handler", StandardError(formatter)))
    listener.start()
    try:
        yield
    finally:
        stopper = threading.Thread(target=lambda: listener.stop_after(handler), daemon=True)
        stopper.start()
        stopper.join(DRAIN_TIMEOUT)


class StandardError:
    """Writes records. It is no handler of logging: the exit of the process would wait for the lock of a handler."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self._formatter = formatter
        self._fd = sys.stderr.fileno()

    def handle(self, record: logging.LogRecord) -> None:
        line = memoryview(f"{self._formatter.format(record)}\n".encode(errors="backslashreplace"))
        with suppress(OSError):  # the reader has gone
            while line:
                line = line[os.write(self._fd, line) :]


class DrainingListener(QueueListener):
    def stop_after(self, handler: "DroppingQueueHandler") -> None:
        """Writes the records in the queue and the number of those dropped, and ends the thread."""
        handler.report_dropped(cast("queue.Queue[logging.LogRecord]", self.queue).put)
        self.stop()

    def enqueue_sentinel(self) -> None:
        """Waits for a free place in the queue if it is full."""
        cast("queue.Queue[None]", self.queue).put(None)


class DroppingQueueHandler(QueueHandler):
    """Drops records that do not fit into the queue, and logs their number as soon as there is a free place again."""

    dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.report_dropped(self.queue.put_nowait)
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def report_dropped(self, put: Callable[[logging.LogRecord], object]) -> None:
        if self.dropped:
            put(logging.LogRecord(__name__, logging.WARNING, "", 0, f"{self.dropped} lines dropped", None, None))
            self.dropped = 0
