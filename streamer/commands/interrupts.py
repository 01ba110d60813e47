"""Ctrl-C ends the command with one sentence and exit status 130, at any time.

Python's default, an exception at any instruction, leaves half-done imports, contexts and threads behind, and prints
tracebacks. Here the handler sets a flag. Before a command has begun its work, the handler ends the process. Inside of
`deferred` it cancels the task of the event loop, so that the work ends in order, and `deferred` raises
KeyboardInterrupt at its end. A second Ctrl-C ends the process in the handler, which is as safe as a kill: the next run
resumes the partial file.

This is the first module that the process imports, so it imports nothing that takes time.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

INTERRUPTED = 130  # as shells report SIGINT
SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it


class Terminated(SystemExit):
    """SIGTERM; the code is the exit status."""


class Interrupts:
    """The SIGINT handler of the process."""

    def __init__(self) -> None:
        self._deferred = False
        self._pressed = False
        self._cancel: Callable[[], object] | None = None

    def listen(self) -> None:
        """Installs the handler."""
        signal.signal(signal.SIGINT, self._on_signal)

    def ignore(self) -> None:
        """Ignores Ctrl-C from now on, because the process is about to exit."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _on_signal(self, number: int, frame: object) -> None:
        if self._pressed or not self._deferred:
            _exit()
        self._pressed = True
        if self._cancel:
            self._cancel()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Raises KeyboardInterrupt at the end of the context, instead of any other exception, if Ctrl-C was pressed."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
            if self._pressed:
                raise KeyboardInterrupt

    @contextmanager
    def cancelling(self, cancel: Callable[[], object]) -> Iterator[None]:
        """Calls `cancel` when Ctrl-C is pressed inside of the context; at once, if it was pressed before."""
        self._cancel = cancel
        try:
            if self._pressed:
                cancel()
            yield
        finally:
            self._cancel = None

    def raise_if_pressed(self) -> None:
        """Raises KeyboardInterrupt, and resets the flag."""
        if self._pressed:
            self._pressed = False
            raise KeyboardInterrupt

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Makes Ctrl-C raise KeyboardInterrupt at once, for a question to the user."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            self.listen()


def exit_in_order_on_sigterm() -> None:
    """Makes SIGTERM raise Terminated, so that the contexts end, and one of them restores the cursor of the terminal."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: object) -> None:
    raise Terminated(128 + number)


def _exit() -> None:
    with suppress(OSError, ValueError, AttributeError):  # standard error may be full, or closed
        cursor = SHOW_CURSOR if sys.stderr.isatty() else ""
        os.write(sys.stderr.fileno(), f"{cursor}streamer: interrupted\n".encode())
    os._exit(INTERRUPTED)


interrupts = Interrupts()
