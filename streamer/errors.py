"""Every error visible outside the process.

A `ClientError` is visible to a client: the class has a stable code, a status, a title and a Retry-After, and each error
has a sentence of its own. Only `http/problems.py` turns it into application/problem+json (RFC 9457). An `ExportFailure`
is the reason why an export failed; its sentence goes into the export's row. A `StartError` is the one line that a user
reads when the server cannot start.
"""

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

MAX_SHOWN = 60  # characters
RETRY_AFTER = 5  # seconds: a shortage that ends by itself


def shown(text: str, max_length: int = MAX_SHOWN) -> str:
    """Returns a client's own text for a sentence: cut to `max_length` characters, and escaped where not printable."""
    cut = text if len(text) <= max_length else text[:max_length] + "…"
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in cut)


FOLDER_REMEDIES = {
    errno.EACCES: "let this user write there, or ",
    errno.EPERM: "let this user write there, or ",
    errno.ENOSPC: "make room on its disk, or ",
    errno.EDQUOT: "make room on its disk, or ",
    errno.EEXIST: "a file has this name: ",
    errno.ENOTDIR: "a part of the path is a file: ",
}
"""What to do about a folder that cannot be written, before the words on how to choose another one."""


def cannot_write(path: Path, error: OSError, other: str) -> str:
    """Returns a sentence about a folder that cannot be used; `other` says how to choose another one."""
    return f"cannot write to {path}: {error.strerror}; {FOLDER_REMEDIES.get(error.errno or 0, '')}{other}"


def one_of(choices: Sequence[str]) -> str:
    """Returns the choices for a sentence: `a, b or c`."""
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last


class ClientError(Exception):
    """A response other than success."""

    code: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]
    retry_after: ClassVar[int | None] = None  # seconds

    def __init__(
        self, sentence: str, *, parameter: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.parameter = parameter
        self.headers = headers or {}


class BadParameter(ClientError):
    code, status, title = "bad-parameter", 400, "A parameter is not allowed"

    def __init__(self, parameter: str, sentence: str) -> None:
        name = shown(parameter)
        super().__init__(f"{name}: {sentence}", parameter=name)


class BadBody(ClientError):
    code, status, title = "bad-body", 400, "The request body cannot be read"


class BadTarget(ClientError):
    code, status, title = "bad-target", 400, "The URL cannot be read"


class NotFound(ClientError):
    code, status, title = "not-found", 404, "Not found"


class NotAcceptable(ClientError):
    code, status, title = "not-acceptable", 406, "No acceptable content coding"


class TooMuch(ClientError):
    code, status, title = "too-much", 400, "The request asks for too much"


class BodyTooLarge(ClientError):
    code, status, title = "request-entity-too-large", 413, "The request body is too large"


class SlowBody(ClientError):
    code, status, title = "slow-body", 408, "The request body did not come in"


class ExportFailed(ClientError):
    code, status, title = "export-failed", 409, "The export failed"


class WrittenByNewer(ClientError):
    code, status, title = "written-by-newer", 409, "A newer version wrote this"


class ExportGone(ClientError):
    code, status, title = "export-gone", 410, "The export is gone"


class PreconditionFailed(ClientError):
    code, status, title = "precondition-failed", 412, "A precondition failed"


class RangeNotSatisfiable(ClientError):
    code, status, title = "range-not-satisfiable", 416, "The range does not exist"

    def __init__(self, length: int) -> None:
        super().__init__(f"the export has {length} bytes, and none of those asked for")
        self.length = length


class KeyReused(ClientError):
    code, status, title = "idempotency-key-reused", 422, "The idempotency key belongs to another request"


class TooEarly(ClientError):
    code, status, title = "too-early", 425, "The export is not finished"
    retry_after = 2


class QueueFull(ClientError):
    code, status, title = "queue-full", 429, "Too many exports are waiting"
    retry_after = RETRY_AFTER


class Unavailable(ClientError):
    code, status, title = "unavailable", 503, "Not available at the moment"
    retry_after = RETRY_AFTER


class InsufficientStorage(ClientError):
    code, status, title = "insufficient-storage", 507, "No room for another export"
    retry_after = 60


class ExportFailure(Exception):
    """Why an export cannot be finished, in a sentence for its user."""


class TransientFailure(ExportFailure):
    """A failure that a retry may overcome: the connection was lost, the server is starting."""


class SourceWait(ExportFailure):
    """No snapshot of the source could be taken that is consistent with its locks: no row was read.

    It does not count as an attempt. The export waits, and starts again.
    """


class SourceAway(SourceWait):
    """The source accepts no connection at the moment: it is stopped, starting, or has no connection left."""


class SourceBusy(SourceWait):
    """A relation that this export reads is locked, or is being changed."""


class StartError(Exception):
    """Why the server cannot start, in one line."""
