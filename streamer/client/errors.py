"""The errors of the client. Each has one sentence, and the exit status that the command line uses for it.

`Transient` is internal: the client retries, and raises `GaveUp` after the last attempt. Its cause is the last failure.
"""

from typing import ClassVar


class StreamerError(Exception):
    """The base class of all errors of the client. Catch it to handle every failure.

    `str(error)` is one sentence for users. `error.exit_status` is the exit status of the command line for this error.
    The subclasses are `Refused` and `LocalFileError` (1), `ExportFailed` (3), `ExportGone` (4), `GaveUp` (5), and
    `VerificationFailed` with its subclass `Replaced` (6).
    """

    exit_status: ClassVar[int] = 1


class Refused(StreamerError):
    """The request was refused: a wrong parameter, a wrong API key, or the server is not a streamer. Exit status 1.

    The same request will be refused again.
    """


class LocalFileError(StreamerError):
    """The local file cannot be written. Exit status 1.

    Another file has its name, another process is writing it, the disk is full, or the folder does not exist.
    """


class ExportFailed(StreamerError):
    """The export failed on the server; the sentence has the reason of the server. Exit status 3."""

    exit_status = 3


class ExportGone(StreamerError):
    """The export was cancelled or deleted, has expired, or never existed. Exit status 4."""

    exit_status = 4


class GaveUp(StreamerError):
    """The server did not answer in time: too many attempts in a row failed, or the time limit is over. Exit status 5.

    A partial file is kept. Save the same export to the same path again to resume it.
    """

    exit_status = 5


class VerificationFailed(StreamerError):
    """The length or the SHA-256 of the received bytes does not match the server's. Exit status 6.

    The partial file is removed, because to resume it would fail in the same way.
    """

    exit_status = 6


class Replaced(VerificationFailed):
    """The server has other bytes under the same id. Exit status 6.

    None of these bytes was added to the partial file, which is kept.
    """


class Transient(Exception):
    """A failure that a retry may solve; `retry_after` is in seconds, if the server sent Retry-After."""

    def __init__(self, sentence: str, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class ReadTimeout(Transient):
    """A connection brought no byte for the read timeout."""


class Unreachable(Transient):
    """The server itself, not a proxy, accepts no connection; `has_address` is False if its name is not known."""

    def __init__(self, sentence: str, *, has_address: bool) -> None:
        super().__init__(sentence)
        self.has_address = has_address
