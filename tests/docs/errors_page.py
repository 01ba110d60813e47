"""errors.md: from the errors of the server and of the client."""

import inspect

from streamer.client import errors as client_errors
from streamer.client.errors import StreamerError
from streamer.commands.interrupts import INTERRUPTED
from streamer.commands.running import BROKEN_PIPE
from streamer.errors import ClientError
from streamer.http.problems import TYPE
from streamer.schema import Problem, encode
from tests.docs.markdown import fenced, filled, table
from tests.docs.structs import pretty

EXIT_STATUSES = {
    0: ("", "Success: for `pull` and `export`, FILE is complete and verified."),
    2: ("", "Wrong usage: an option or an argument is not allowed."),
    INTERRUPTED: ("", "Ctrl-C. Once ends the work in order, twice at once."),
    BROKEN_PIPE: ("", "The reader of standard output has left, as in `-o - | head`. Nothing is printed."),
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
    found: dict[int, tuple[list[str], list[str]]] = {}
    for error in _of_the_client():
        names, meanings = found.setdefault(error.exit_status, ([], []))
        names.append(f"`{error.__name__}`")
        meanings += _paragraphs(error)
    rows = {status: (", ".join(names), " ".join(meanings)) for status, (names, meanings) in found.items()}
    return table(
        ("exit status", "exception in Python", "meaning"),
        [(str(status), *cells) for status, cells in sorted({**rows, **EXIT_STATUSES}.items())],
    )


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
