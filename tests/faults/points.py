"""Fault points: every system call on the folder of spools, and every statement of the store, before and after.

A point is a call at its place in streamer/. While `Faults` are armed each is counted, and the one that is planned
fails, once. "Before" is a call that was never made, "after" one that was made and whose answer was lost: a file that is
there though `open` failed, a row that is completed though the connection broke. A call without an effect has no
"after". Only what concerns the folder, or the store's own statements, is touched.

The answer to a statement may also be late: it is held until the server has stopped. A trouble of the table may begin
with a statement, and one of the disk with a system call; such troubles last, and are real (troubles.py).

EINTR is no fault of these calls: Python repeats them itself (PEP 475). A descriptor is closed whatever close(2) says,
so close has one point too.
"""

import asyncio
import errno
import fcntl
import os
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import streamer
from streamer.jobs import representation_store, store, table
from streamer.jobs.queue import COMMIT
from streamer.spool.directory import SpoolDirectory
from streamer.spool.names import SpoolName
from tests.faults.troubles import Trouble, session_of

STREAMER = str(Path(streamer.__file__).parent)


class When(StrEnum):
    BEFORE = "before"
    AFTER = "after"
    SHORT = "short"  # a part of what was asked for is done
    NOTHING = "nothing"  # zero bytes: the file ends here
    LATE = "late"  # the statement is executed, and its answer comes when the server has stopped
    LASTING = "lasting"  # a trouble begins here


@dataclass(frozen=True)
class Call:
    """What may become of a system call."""

    errors: tuple[int, ...]
    lasting: bool = False  # it changes something
    partial: tuple[When, ...] = ()


CALLS: dict[str, Call] = {
    "open": Call((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.EACCES), lasting=True),
    "write": Call((errno.ENOSPC, errno.EDQUOT, errno.EIO), lasting=True, partial=(When.SHORT,)),
    "fsync": Call((errno.EIO, errno.ENOSPC, errno.EDQUOT), lasting=True),
    "close": Call((errno.EIO, errno.ENOSPC, errno.EDQUOT)),
    "unlink": Call((errno.EIO, errno.EACCES, errno.EROFS), lasting=True),
    "rename": Call((errno.EIO, errno.ENOSPC, errno.EDQUOT), lasting=True),
    "mkdir": Call((errno.EIO, errno.ENOSPC, errno.EACCES)),
    "stat": Call((errno.EIO, errno.ESTALE)),
    "fstat": Call((errno.EIO, errno.ESTALE)),
    "statvfs": Call((errno.EIO,)),
    "scandir": Call((errno.EIO, errno.EMFILE)),
    "Path.open": Call((errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOENT), lasting=True),
    "flock": Call((errno.ENOLCK, errno.EIO)),
    "preadv": Call((errno.EAGAIN, errno.EOPNOTSUPP, errno.EIO), partial=(When.SHORT,)),
    "pread": Call((errno.EIO,), partial=(When.SHORT, When.NOTHING)),
    "posix_fadvise": Call((errno.EIO, errno.EINVAL)),
    "sendfile": Call((errno.ECONNRESET, errno.EPIPE, errno.EIO), partial=(When.SHORT, When.NOTHING)),
}
SQL_ERRORS: dict[str, Callable[[], Exception]] = {
    "lost": lambda: asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
    "reset": lambda: ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    "shutdown": lambda: asyncpg.AdminShutdownError("terminating connection due to administrator command"),
    "full": lambda: asyncpg.DiskFullError("could not extend file: No space left on device"),
    "unanswered": TimeoutError,
}
HELD = 1.0  # seconds until an answer is no longer waited for
LOCKED, FORBIDDEN = "the table is locked", "the store is read-only"
FILLED, BUSY = "the disk is full", "the file is busy"
STARTING = ("sql migrations", "sql identity")  # before them there may be no table that could be locked
STATEMENTS = {text: ("jobs.store:Store", name) for name, text in (table.STATEMENTS | {"commit": COMMIT}).items()} | {
    text: ("jobs.representation_store:RepresentationStore", f"{name} of a representation")
    for name, text in representation_store.STATEMENTS.items()
}


@dataclass(frozen=True, order=True)
class Point:
    call: str  # "write", or "sql complete"
    place: str  # the function of streamer/ that makes it

    def __str__(self) -> str:
        return f"{self.call} in {self.place}"


@dataclass(frozen=True)
class Fault:
    point: Point
    when: When
    error: str = ""
    occurrence: int = 1

    def __str__(self) -> str:
        return f"{self.when} {self.point}, number {self.occurrence}: {self.error or 'no error'}"


def faults_at(point: Point) -> list[tuple[When, str]]:
    """What may happen there, the most telling first."""
    if point.call.startswith("sql "):
        return [(when, error) for error in SQL_ERRORS for when in (When.BEFORE, When.AFTER)] + [(When.LATE, "")]
    call = CALLS[point.call]
    whens = (When.BEFORE, When.AFTER) if call.lasting else (When.BEFORE,)
    found = [(when, errno.errorcode[number]) for number in call.errors for when in whens]
    return found + [(when, "") for when in call.partial]


def troubles_at(point: Point) -> list[str]:
    """What may begin there and last."""
    if point.call.startswith("sql "):
        return [] if point.call in STARTING else [LOCKED, FORBIDDEN]
    return [FILLED, BUSY] if point.call in ("unlink", "rename") else [FILLED]


class Faults:
    """Counts every point, and lets one of them fail.

    `hand` is a session for what is done to the table from outside. `shortage` tells how many bytes must go, and
    `on_decision` is told how many did when a task of the server asked. `on_removal` is told which files were chosen
    to be removed, and which of them the table says are.
    """

    def __init__(
        self,
        folder: Path,
        plan: Fault | None = None,
        *,
        hand: "asyncpg.Connection[asyncpg.Record]",
        lasts: float,
    ) -> None:
        self.counts: Counter[Point] = Counter()
        self.fired = False
        self.trouble = Trouble(lasts)
        self.holding = asyncio.Event()  # an answer
        self.released = asyncio.Event()
        self.shortage: Callable[[], int] = lambda: 0
        self.on_decision: Callable[[int], None] = lambda shortage: None
        self.on_removal: Callable[[Iterable[SpoolName], Sequence[SpoolName]], None] = lambda chosen, removed: None
        self._hand = hand
        self._folder = str(folder)
        self._plan = plan
        self._lock = threading.Lock()

    def disarm(self) -> None:
        self._plan = None

    def due(self, point: Point) -> Fault | None:
        with self._lock:
            self.counts[point] += 1
            plan = self._plan
            if plan is None or self.fired or plan.point != point or plan.occurrence != self.counts[point]:
                return None
            self.fired = True
            return plan

    def begin(self, fault: Fault, target: object) -> None:
        """A trouble of the disk."""
        if fault.error == FILLED:
            self.trouble.fill(Path(self._folder).parent)
        elif isinstance(target, str | Path):
            self.trouble.hold_file(Path(target))

    async def begin_in_store(self, fault: Fault) -> None:
        if fault.error == LOCKED:
            await self.trouble.lock(self._hand)
        else:
            self.trouble.forbid_changes()

    async def hold_answer(self) -> None:
        """Raises TimeoutError, as a statement does that is no longer waited for."""
        self.holding.set()
        async with asyncio.timeout(HELD):
            await self.released.wait()

    def observe(self, statement: str, arguments: Sequence[Any], rows: Sequence[Any]) -> None:
        if statement == "note_removed":
            self.on_removal(map(SpoolName, arguments[0]), [SpoolName(row["id"]) for row in rows])
        if statement == "note_removed of a representation":
            self.on_removal(map(SpoolName, *arguments), [SpoolName(*row) for row in rows])

    def ours(self, target: object) -> bool:
        """Whether a path, a descriptor or a file is in the folder."""
        if isinstance(target, str | Path):
            return str(target).startswith(self._folder)
        fd = target if isinstance(target, int) else target.fileno()  # type: ignore[attr-defined]
        try:
            return str(Path(f"/proc/self/fd/{fd}").readlink()).startswith(self._folder)
        except OSError:
            return False


@contextmanager
def armed(faults: Faults) -> Iterator[None]:
    """While the context is open the calls go through `faults`."""
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            if name not in ("Path.open", "flock"):
                patch.setattr(os, name, _guarded(faults, name, getattr(os, name), target=name == "sendfile"))
        patch.setattr(Path, "open", _guarded(faults, "Path.open", Path.open))
        patch.setattr(fcntl, "flock", _guarded(faults, "flock", fcntl.flock))
        for name in ("fetch", "execute"):
            patch.setattr(asyncpg.Connection, name, _guarded_statement(faults, getattr(asyncpg.Connection, name)))
        patch.setattr(SpoolDirectory, "shortage", _observed(faults, SpoolDirectory.shortage))
        patch.setattr(store, "_migrate", _guarded_migration(faults, store._migrate))
        yield


def _guarded(faults: Faults, name: str, original: Callable[..., Any], target: int = 0) -> Callable[..., Any]:
    """`target` is the number of the argument that names the file."""

    def call(*arguments: Any, **named: Any) -> Any:
        place = _place() or ("the event loop" if name == "sendfile" else None)
        if place is None or not faults.ours(arguments[target]):
            return original(*arguments, **named)
        fault = faults.due(Point(name, place))
        if fault is not None and fault.when is When.LASTING:
            faults.begin(fault, arguments[target])
        if fault is None or fault.when is When.LASTING:
            return original(*arguments, **named)
        if fault.when in (When.SHORT, When.NOTHING):
            return original(*_shortened(name, arguments, 0 if fault.when is When.NOTHING else 2), **named)
        if fault.when is When.AFTER or name == "close":
            _let_go(original(*arguments, **named), name)
        number: int = getattr(errno, fault.error)
        raise OSError(number, os.strerror(number))

    return call


def _place() -> str | None:
    """The innermost function of streamer/ on the stack."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith(STREAMER):
            file = frame.f_code.co_filename.removeprefix(STREAMER + os.sep).removesuffix(".py")
            return f"{file.replace(os.sep, '.')}:{frame.f_code.co_qualname.replace('.<locals>', '')}"
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _shortened(name: str, arguments: tuple[Any, ...], divisor: int) -> tuple[Any, ...]:
    """The same call for a part of the bytes; with divisor 0 for none, as at the end of the file."""
    if name == "write":
        return arguments[0], arguments[1][: max(1, len(arguments[1]) // 2)]
    if name == "preadv":
        return arguments[0], [memoryview(arguments[1][0])[:0]], *arguments[2:]
    if name == "pread":
        return arguments[0], arguments[1] // divisor if divisor else 0, arguments[2]
    assert name == "sendfile"
    out, file, offset, count = arguments
    return (out, file, offset, max(1, count // divisor)) if divisor else (out, file, os.fstat(file).st_size, count)


def _let_go(result: Any, name: str) -> None:
    """Of what a call gave whose answer is lost."""
    if name == "open":
        os.close(result)
    elif name in ("Path.open", "scandir"):
        result.close()


def _guarded_statement(faults: Faults, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def statement(
        connection: "asyncpg.Connection[asyncpg.Record]", text: str, *arguments: Any, **named: Any
    ) -> Any:
        if text not in STATEMENTS:
            return await original(connection, text, *arguments, **named)
        place, name = STATEMENTS[text]
        fault = faults.due(Point(f"sql {name}", place))
        if fault is not None and fault.when is When.LASTING:
            await faults.begin_in_store(fault)
            fault = None
        if fault is None or fault.when is not When.BEFORE:
            async with session_of(faults.trouble, connection):
                rows = await original(connection, text, *arguments, **named)
            faults.observe(name, arguments, rows)
        if fault is None:
            return rows
        if fault.when is When.LATE:
            await faults.hold_answer()
            return rows
        raise SQL_ERRORS[fault.error]()

    return statement


def _observed(faults: Faults, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The files may change while they are counted: the larger of two figures is what the server may have found."""

    async def shortage(*arguments: Any, **named: Any) -> Any:
        before = faults.shortage()
        found = await original(*arguments, **named)
        faults.on_decision(max(before, faults.shortage()))
        return found

    return shortage


def _guarded_migration(faults: Faults, original: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    async def migrate(connection: Any) -> None:
        fault = faults.due(Point("sql migrations", "jobs.store:Store"))
        if fault is None or fault.when is not When.BEFORE:
            await original(connection)
        if fault is not None and fault.when is When.LATE:
            await faults.hold_answer()
        elif fault is not None:
            raise SQL_ERRORS[fault.error]()

    return migrate
