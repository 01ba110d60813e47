"""The errors of the client. Each has one sentence, and the exit status that the command line uses for it.

`Transient` is internal: the client retries, and raises `GaveUp` after the last attempt.
"""

from typing import ClassVar


class StreamerError(Exception):
    """The base class. Its text is one sentence for users."""

    exit_status: ClassVar[int] = 1


class Refused(StreamerError):
    """The server refused the request: a wrong parameter, no permission; or it is not a streamer."""


class LocalFileError(StreamerError):
    """The local file cannot be written: another file exists, another pull is writing it, the disk is full."""


class ExportFailed(StreamerError):
    """The export failed on the server."""

    exit_status = 3


class ExportGone(StreamerError):
    """The export was cancelled or deleted, has expired, or never existed."""

    exit_status = 4


class GaveUp(StreamerError):
    """Too many attempts in a row brought no byte, or the time limit is over. The next run resumes the partial file."""

    exit_status = 5


class VerificationFailed(StreamerError):
    """The bytes are not those that the server sealed."""

    exit_status = 6


class Replaced(VerificationFailed):
    """The server has other bytes under the same id. None of them was added to the partial file."""


class Transient(Exception):
    """A failure that a retry may solve; `retry_after` is in seconds, if the server sent Retry-After."""

    def __init__(self, sentence: str, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class ReadTimeout(Transient):
    """A connection brought no byte for the read timeout."""
