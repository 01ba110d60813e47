"""errors.md: from the errors of the server and of the client."""

import inspect
import re
import signal

from streamer.client import errors as client_errors
from streamer.client.errors import StreamerError
from streamer.commands.interrupts import INTERRUPTED
from streamer.commands.running import BROKEN_PIPE
from streamer.errors import ClientError
from streamer.http.problems import TYPE
from streamer.schema import Problem, encode
from tests.docs.markdown import fenced, filled, table
from tests.docs.structs import pretty

EXIT_STATUS = re.compile(r" Exit status \d+\.$")  # in a docstring; in the table it is a column
EXIT_STATUSES = {
    0: ("", "Success: for `pull` and `export`, FILE is complete and verified."),
    2: ("", "Wrong usage: an option or an argument is not allowed."),
    INTERRUPTED: ("", "Ctrl-C. The first ends the command in order, a second one at once."),
    BROKEN_PIPE: ("", "The reader has closed standard output, as in `-o - | head`. Nothing is printed."),
    128 + signal.SIGTERM: ("", "SIGTERM. Without a terminal nothing is printed."),
}


def errors_page() -> str:
    parts = {"problem": fenced("json", pretty(encode(_example()))), "errors": _errors(), "statuses": _statuses()}
    return filled("errors", parts)


def _errors() -> str:
    rows = [_row(error) for error in sorted(ClientError.__subclasses__(), key=lambda each: (each.status, each.code))]
    return table(("status", "type", "meaning", "what to do", "Retry-After"), rows)


def _row(error: type[ClientError]) -> tuple[str, ...]:
    meaning, remedy = _paragraphs(error)
    wait = "" if error.retry_after is None else f"{error.retry_after} s"
    return str(error.status), f"`{error.code}`", meaning, remedy, wait


def _paragraphs(error: type[Exception]) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in (inspect.getdoc(error) or "").split("\n\n")]


def _statuses() -> str:
    found: dict[int, dict[str, str]] = {}
    for error in _of_the_client():
        meaning = " ".join(EXIT_STATUS.sub("", paragraph) for paragraph in _paragraphs(error))
        found.setdefault(error.exit_status, {})[f"`{error.__name__}`"] = meaning
    rows = {status: (", ".join(meanings), _joined(meanings)) for status, meanings in found.items()}
    return table(
        ("exit status", "exception in Python", "meaning"),
        [(str(status), *cells) for status, cells in sorted({**rows, **EXIT_STATUSES}.items())],
    )


def _joined(meanings: dict[str, str]) -> str:
    """Returns the meanings of the exceptions of one status; if there are several, each with its name."""
    if len(meanings) == 1:
        return next(iter(meanings.values()))
    return " ".join(f"{name}: {meaning}" for name, meaning in meanings.items())


def _of_the_client() -> list[type[StreamerError]]:
    classes = [each for each in vars(client_errors).values() if inspect.isclass(each)]
    return [each for each in classes if issubclass(each, StreamerError) and each is not StreamerError]


def _example() -> Problem:
    sentence = "limit: must be a whole number of rows of at most 18 digits, not 'much'"
    return Problem(
        type=f"{TYPE}bad-parameter",
        title="A parameter is not allowed",
        status=400,
        detail=sentence,
        error=sentence,
        instance="/exports/csv",
        parameter="limit",
    )
