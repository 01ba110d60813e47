"""Every way in which a pull can end badly, each with one sentence and the exit status that the command line gives it.

`Transient` never leaves the house: it is tried again until patience is at its end, and becomes `GaveUp`.
"""

from typing import ClassVar


class StreamerError(Exception):
    """One sentence, which a user may read."""

    exit_status: ClassVar[int] = 1


class Refused(StreamerError):
    """The server does not do what was asked: a wrong parameter, no permission, or it is no streamer at all."""


class LocalFileError(StreamerError):
    """The local file cannot be written: another file is in the way, another pull is at it, the disk is full."""


class ExportFailed(StreamerError):
    """The export ended badly on the server."""

    exit_status = 3


class ExportGone(StreamerError):
    """The export was cancelled or deleted, has expired, or never was."""

    exit_status = 4


class GaveUp(StreamerError):
    """Too many tries that brought nothing, or the time is over. What has come is kept for the next run."""

    exit_status = 5


class VerificationFailed(StreamerError):
    """What came is not what the server says it sealed."""

    exit_status = 6


class Replaced(VerificationFailed):
    """The server has other bytes under the same id. Nothing of them was added to what is there."""


class Transient(Exception):
    """A failure that may be over in a moment; `retry_after` is in seconds, if the server named a time."""

    def __init__(self, sentence: str, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class Silence(Transient):
    """Nothing came for too long."""
