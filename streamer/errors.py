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
    """A response other than success.

    The first paragraph of a subclass's docstring says what it means, the second what a client can do about it: the
    documentation has both.
    """

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
    """A parameter, or a header field that is read like one, has a value that is not allowed, or is not known.

    The sentence says what is allowed. No export was started.
    """

    code, status, title = "bad-parameter", 400, "A parameter is not allowed"

    def __init__(self, parameter: str, sentence: str) -> None:
        name = shown(parameter)
        super().__init__(f"{name}: {sentence}", parameter=name)


class BadBody(ClientError):
    """The body is not a JSON object in UTF-8, or the route takes none.

    Send a JSON object, or query parameters.
    """

    code, status, title = "bad-body", 400, "The request body cannot be read"


class BadTarget(ClientError):
    """The URL is not UTF-8 in percent-encoding.

    Write `%`, `+` and `#` of a value as `%25`, `%2B` and `%23`.
    """

    code, status, title = "bad-target", 400, "The URL cannot be read"


class NotFound(ClientError):
    """There is no such export, dataset, page or path.

    Look at the list: `GET /exports`, `GET /datasets` or `GET /docs`.
    """

    code, status, title = "not-found", 404, "Not found"


class NotAcceptable(ClientError):
    """`Accept-Encoding` excludes both gzip and identity.

    Allow one of them.
    """

    code, status, title = "not-acceptable", 406, "No acceptable content coding"


class TooMuch(ClientError):
    """The request has more values, or takes more bytes when stored, than an export may have.

    Ask for fewer columns or values; the sentence says the limit.
    """

    code, status, title = "too-much", 400, "The request asks for too much"


class BodyTooLarge(ClientError):
    """The body has more bytes than a request may have.

    Send a smaller body; the sentence says the limit.
    """

    code, status, title = "request-entity-too-large", 413, "The request body is too large"


class SlowBody(ClientError):
    """The body did not arrive in time.

    Send the request again.
    """

    code, status, title = "slow-body", 408, "The request body did not arrive"


class ExportFailed(ClientError):
    """The export failed, so there is nothing to download.

    Read the sentence, which is the reason, and start a new export.
    """

    code, status, title = "export-failed", 409, "The export failed"


class WrittenByNewer(ClientError):
    """A newer version of streamer recorded a status that this server does not know.

    Ask a server of the newer version, or upgrade this one.
    """

    code, status, title = "written-by-newer", 409, "A newer version wrote this"


class ExportGone(ClientError):
    """The export was cancelled or deleted, or has expired.

    Start a new export.
    """

    code, status, title = "export-gone", 410, "The export is gone"


class PreconditionFailed(ClientError):
    """`If-Match` or `If-Unmodified-Since` asks for other bytes than the export has.

    Download it from the first byte.
    """

    code, status, title = "precondition-failed", 412, "A precondition failed"


class RangeNotSatisfiable(ClientError):
    """The range begins after the last byte.

    Compare your file with the length in `Content-Range`: it may be complete.
    """

    code, status, title = "range-not-satisfiable", 416, "The range does not exist"

    def __init__(self, length: int) -> None:
        super().__init__(f"the export has {length} bytes, and the range has none of them")
        self.length = length


class KeyReused(ClientError):
    """The `Idempotency-Key` was used for another request.

    Send a new key.
    """

    code, status, title = "idempotency-key-reused", 422, "The idempotency key belongs to another request"


class TooEarly(ClientError):
    """The export is not completed, and the request says `live=false`.

    Try again later, or leave out `live=false`.
    """

    code, status, title = "too-early", 425, "The export is not finished"
    retry_after = 2


class QueueFull(ClientError):
    """`MAX_QUEUED_EXPORTS` exports are waiting.

    Try again later.
    """

    code, status, title = "queue-full", 429, "Too many exports are waiting"
    retry_after = RETRY_AFTER


class Unavailable(ClientError):
    """Something is not available at the moment: the database, the source, room for another download or request, or the
    server that has the file.

    Try again later; the sentence says what is missing.
    """

    code, status, title = "unavailable", 503, "Not available at the moment"
    retry_after = RETRY_AFTER


class InsufficientStorage(ClientError):
    """The storage folder has no room, even without the exports that could be deleted.

    Try again later; the operator can free space or raise `SPOOL_MAX_BYTES`.
    """

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
