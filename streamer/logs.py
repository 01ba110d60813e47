"""Logs to stderr that never hold anybody up.

A write to stderr waits when its reader is slow, and a pipe that nobody reads any more is full for ever. So a thread
writes, and what comes to it waits in a queue of a fixed size.
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

LOG_QUEUE = 1000  # records
LAST_LINES = 2.0  # seconds for what is in the queue at the end


@contextmanager
def logging_to_stderr(log_format: LogFormat) -> Iterator[None]:
    """Everything to stderr, one line a record where the format is JSON.

    A thread writes the records: a reader of stderr that is slow, or has stopped, stops nobody else. What is more than
    `LOG_QUEUE` records behind is dropped, and counted.
    """
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    if log_format is LogFormat.JSON:
        formatter = JsonFormatter(["asctime", "levelname", "name", "message"])
    records: queue.Queue[logging.LogRecord] = queue.Queue(LOG_QUEUE)
    handler = DroppingQueueHandler(records)
    handler.setFormatter(logging.Formatter("%(message)s"))  # the rest is said by the thread
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    listener = PatientListener(records, cast("logging.Handler", StandardError(formatter)))
    listener.start()
    try:
        yield
    finally:
        stopper = threading.Thread(target=lambda: listener.stop_after(handler), daemon=True)
        stopper.start()
        stopper.join(LAST_LINES)


class StandardError:
    """Writes records. No handler of logging, whose lock would be waited for when the process ends."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self._formatter = formatter
        self._fd = sys.stderr.fileno()

    def handle(self, record: logging.LogRecord) -> None:
        line = memoryview(f"{self._formatter.format(record)}\n".encode(errors="backslashreplace"))
        with suppress(OSError):  # nobody is there any more
            while line:
                line = line[os.write(self._fd, line) :]


class PatientListener(QueueListener):
    def stop_after(self, handler: "DroppingQueueHandler") -> None:
        """Writes what is in the queue, and what the handler has to say of the rest."""
        handler.say_dropped(cast("queue.Queue[logging.LogRecord]", self.queue).put)
        self.stop()

    def enqueue_sentinel(self) -> None:
        """The end stands in line, also where the queue is full."""
        cast("queue.Queue[None]", self.queue).put(None)


class DroppingQueueHandler(QueueHandler):
    """Drops what does not fit, and says how much that was as soon as something fits again."""

    dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.say_dropped(self.queue.put_nowait)
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def say_dropped(self, put: Callable[[logging.LogRecord], object]) -> None:
        if self.dropped:
            put(logging.LogRecord(__name__, logging.WARNING, "", 0, f"{self.dropped} lines dropped", None, None))
            self.dropped = 0
