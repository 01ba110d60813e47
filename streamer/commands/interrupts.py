"""Ctrl-C ends the command with one sentence and 130, whatever it is doing.

Python's own way, an exception at any instruction, leaves half-done imports, contexts and threads behind, and says so in
tracebacks. Here a signal sets a flag. Before a verb has begun its work the process ends in the handler. While it is
held, the task of the event loop is cancelled, and the work ends in order; `held` raises KeyboardInterrupt at its end. A
second Ctrl-C ends the process in the handler: what earlier runs have brought is as safe as after a kill.

Nothing is imported here that takes time: this is the first module of the process.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

INTERRUPTED = 130  # as shells have it for SIGINT
SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it


class Interrupts:
    """The one handler of SIGINT of a process."""

    def __init__(self) -> None:
        self._held = False
        self._pressed = False
        self._cancel: Callable[[], object] | None = None

    def listen(self) -> None:
        signal.signal(signal.SIGINT, self._heard)

    def ignore(self) -> None:
        """How the process ends is decided, and it does so in a moment."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _heard(self, number: int, frame: object) -> None:
        if self._pressed or not self._held:
            _leave()
        self._pressed = True
        if self._cancel:
            self._cancel()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Raises KeyboardInterrupt at the end, in place of anything else, if Ctrl-C was pressed."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            if self._pressed:
                raise KeyboardInterrupt

    @contextmanager
    def cancelling(self, cancel: Callable[[], object]) -> Iterator[None]:
        """While the context lasts, and at once if Ctrl-C was pressed before, it calls `cancel`."""
        self._cancel = cancel
        try:
            if self._pressed:
                cancel()
            yield
        finally:
            self._cancel = None

    def raise_if_pressed(self) -> None:
        """Raises KeyboardInterrupt; Ctrl-C is then as if it had not been pressed."""
        if self._pressed:
            self._pressed = False
            raise KeyboardInterrupt

    @contextmanager
    def raised(self) -> Iterator[None]:
        """For a question to the user: Ctrl-C raises KeyboardInterrupt at once."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            self.listen()


def _leave() -> None:
    with suppress(OSError, ValueError, AttributeError):  # standard error may be full, or closed
        cursor = SHOW_CURSOR if sys.stderr.isatty() else ""
        os.write(sys.stderr.fileno(), f"{cursor}streamer: interrupted\n".encode())
    os._exit(INTERRUPTED)


interrupts = Interrupts()
