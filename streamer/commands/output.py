"""Standard output and standard error, which may be closed, full, or have lost their reader."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import click


def print_json(value: Any) -> None:
    print_stdout(json.dumps(value))


def print_stdout(text: str) -> None:
    """Prints lines. Raises LocalFileError, and BrokenPipeError if the reader of standard output has left."""
    standard_output()
    with translating_output_errors():
        try:
            click.echo(text)
        except OSError:
            discard_buffered(sys.stdout)
            raise


def print_stderr(text: str) -> None:
    """Prints a line; an error of standard error is ignored, because there is no other place to report it."""
    try:
        click.echo(text, err=True)
    except OSError:
        discard_buffered(sys.stderr)


def standard_output() -> TextIO:
    """Raises LocalFileError if standard output is closed."""
    from streamer.client import LocalFileError  # noqa: PLC0415 - see the package

    if sys.stdout is None or sys.stdout.closed:  # None: closed before the process began
        raise LocalFileError("standard output is closed")
    return sys.stdout


@contextmanager
def translating_output_errors() -> Iterator[None]:
    """Raises LocalFileError for an OSError of standard output, but BrokenPipeError if its reader has left."""
    from streamer.client import LocalFileError  # noqa: PLC0415 - see the package

    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise LocalFileError(f"standard output: {error.strerror or error}") from error


def is_terminal(stream: TextIO | None) -> bool:
    """False for a closed stream. A stream that was closed before the process began is None."""
    return stream is not None and not stream.closed and stream.isatty()


def discard_buffered(stream: TextIO) -> None:
    """Redirects a stream to the null device. Python flushes the buffer again at exit, which would fail again."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def missing_rich(what: str, without: str) -> click.ClickException:
    return click.ClickException(f"{what} needs the packages of streamer[client]; use {without} without them")
