"""Logs that never block: written records, dropped records, and a stderr without a reader.

The log is set up as the real process has it, in processes of their own: small ones that log what the test says, and the
server itself.
"""

import asyncio
import json
import logging
import os
import queue
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import psutil  # type: ignore[import-untyped] # its types are a package of their own, which nothing else needs
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from streamer.budget import LOG_RECORD
from streamer.http.net.access_log import AccessLog
from streamer.logs import LOG_QUEUE, DroppingQueueHandler
from tests.acceptance.process import killed
from tests.conftest import connected
from tests.polling import until

PATIENCE = 20.0  # seconds until something that must happen has not
STREAMER = Path(sys.executable).with_name("streamer")
LINE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:,]+ (?P<level>[A-Z]+) (?P<name>[\w.]+): (?P<message>.*)")

SETTING_UP = """
    import logging, sys, threading, time
    import streamer.logs
    from streamer.config import LogFormat
    from streamer.logs import logging_to_stderr

    streamer.logs.LAST_LINES = float(sys.argv[2])

    log = logging.getLogger("some.where")

    def say(text):
        print(text, flush=True)

    with logging_to_stderr(LogFormat(sys.argv[1])):
"""


def script(body: str, log_format: str = "text", *, last_lines: float = PATIENCE) -> list[str]:
    """A process that does `body` while it logs to stderr, and in the end has so many seconds for its last lines."""
    indented = textwrap.indent(textwrap.dedent(body).strip(), "    ")
    return [sys.executable, "-c", textwrap.dedent(SETTING_UP) + indented, log_format, str(last_lines)]


def logged(body: str, log_format: str = "text") -> list[str]:
    """The lines that such a process writes until it ends, which it must do well."""
    ended = subprocess.run(script(body, log_format), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr.splitlines()


def parts(line: str) -> dict[str, str]:
    found = LINE.fullmatch(line)
    assert found, f"not a log line: {line!r}"
    return found.groupdict()


def test_line_has_its_time_level_and_name() -> None:
    (line,) = logged('log.warning("%d apples", 3)')
    assert (parts(line)["level"], parts(line)["name"]) == ("WARNING", "some.where")
    assert parts(line)["message"].endswith("3 apples")


def test_line_is_the_logged_message_and_nothing_else() -> None:
    (line,) = logged('log.warning("%d apples", 3)')
    assert parts(line)["message"] == "3 apples"


def test_info_is_written_and_debug_is_not() -> None:
    lines = logged('log.debug("too much"); log.info("enough")')
    assert [parts(line)["level"] for line in lines] == ["INFO"]


def test_error_has_its_traceback() -> None:
    lines = logged("""
        try:
            raise ValueError("no such apple")
        except ValueError:
            log.exception("it failed")
    """)
    assert parts(lines[0])["message"].endswith("it failed")
    assert lines[1].startswith("Traceback")
    assert lines[-1] == "ValueError: no such apple"


JSON_CASES = """
    log.info("plain")
    log.info("two\\nlines, \\"quoted\\", \\u00e4\\u4e16 and %s", {"braces": 1})
    try:
        raise ValueError("no such apple")
    except ValueError:
        log.exception("it failed")
"""


def test_json_is_one_object_a_line_for_any_record() -> None:
    objects = [json.loads(line) for line in logged(JSON_CASES, "json")]
    assert [(found["levelname"], found["name"]) for found in objects] == [
        ("INFO", "some.where"),
        ("INFO", "some.where"),
        ("ERROR", "some.where"),
    ]
    assert all(found["asctime"] for found in objects)
    assert objects[1]["message"].endswith("two\nlines, \"quoted\", ä世 and {'braces': 1}")
    assert "ValueError: no such apple" in objects[2]["message"] + str(objects[2].get("exc_info"))


def test_json_message_is_the_logged_message_and_nothing_else() -> None:
    assert json.loads(logged(JSON_CASES, "json")[0])["message"] == "plain"


def test_last_lines_before_the_end_are_written_in_order() -> None:
    lines = logged(f"for number in range({LOG_QUEUE // 2}): log.info('line %d', number)")
    assert [int(line.rpartition(" ")[2]) for line in lines] == list(range(LOG_QUEUE // 2))


def test_last_lines_of_a_failure_are_written() -> None:
    ended = subprocess.run(
        script('log.info("before"); raise SystemExit(3)'), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ended.returncode == 3
    assert ended.stderr.rstrip().endswith("before")


def test_lines_of_several_threads_are_all_written_whole() -> None:
    lines = logged(f"""
        def chatter(thread):
            for number in range({LOG_QUEUE // 5}):
                log.info("%d/%d", thread, number)

        threads = [threading.Thread(target=chatter, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    """)
    found = [tuple(map(int, re.split("[ :]", parts(line)["message"])[-1].split("/"))) for line in lines]
    assert sorted(found) == [(thread, number) for thread in range(4) for number in range(LOG_QUEUE // 5)]
    for thread in range(4):
        assert [number for who, number in found if who == thread] == list(range(LOG_QUEUE // 5))


@contextmanager
def stuffed_pipe() -> Iterator[tuple[int, int]]:
    """The reading and the writing end of a full pipe, which only the test reads."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


TALKING = f"""
    for number in range({3 * LOG_QUEUE}):
        log.info("line %d", number)
    say("all said")
    if sys.stdin.read() == "read":
        waiting = logging.getLogger().handlers[0].queue
        while waiting.qsize() > waiting.maxsize // 2:
            time.sleep(0.01)
        log.info("heard again")
"""


@contextmanager
def talking_to_nobody(*, last_lines: float = PATIENCE) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A process that has logged more than the queue holds to a full pipe; it ends when its stdin is closed."""
    with stuffed_pipe() as (reading, writing):
        process = subprocess.Popen(
            script(TALKING, last_lines=last_lines),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=writing,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "all said\n"
            yield process, reading
        finally:
            process.kill()
            process.communicate()


def read_whole(reading: int, process: "subprocess.Popen[str]") -> list[str]:
    """The lines that come through the pipe until the process has ended and nothing is left, without the stuffing."""
    os.set_blocking(reading, False)
    found = bytearray()
    ended = False
    while True:
        try:
            found += os.read(reading, 65536)
        except BlockingIOError:
            if ended:
                return found.lstrip(b".").decode().splitlines()
            try:
                process.wait(0.01)
                ended = True
            except subprocess.TimeoutExpired:
                continue


def test_stderr_without_a_reader_does_not_block() -> None:
    with talking_to_nobody() as (process, _):
        assert process.poll() is None


def outcome(lines: list[str]) -> tuple[int, int, str]:
    """How many lines were kept, how many were dropped as the log says, and the last line."""
    dropped = [int(found[1]) for line in lines if (found := re.search(r"([0-9]+) lines dropped$", line))]
    return sum(bool(re.search(r"line [0-9]+$", line)) for line in lines), sum(dropped), lines[-1]


def test_number_of_dropped_lines_is_logged_when_the_queue_has_a_free_place() -> None:
    with talking_to_nobody() as (process, reading):
        assert process.stdin is not None
        process.stdin.write("read")
        process.stdin.close()
        process.stdin = None
        kept, dropped, last = outcome(read_whole(reading, process))
    assert kept + dropped == 3 * LOG_QUEUE
    assert abs(kept - LOG_QUEUE) <= 10
    assert last.endswith("heard again")


def test_number_of_lines_dropped_last_is_logged_at_the_end() -> None:
    with talking_to_nobody() as (process, reading):
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        kept, dropped, _ = outcome(read_whole(reading, process))
    assert kept + dropped == 3 * LOG_QUEUE


def test_process_whose_stderr_has_no_reader_ends() -> None:
    with talking_to_nobody(last_lines=0.2) as (process, _):
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        assert process.wait(PATIENCE) == 0


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("some.where", logging.INFO, "", 0, text, None, None)


def test_full_queue_drops_lines_and_logs_their_number_once() -> None:
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(3)
    handler = DroppingQueueHandler(waiting)

    def written() -> list[str]:
        return [waiting.get_nowait().getMessage() for _ in range(waiting.qsize())]

    for number in range(10):
        handler.enqueue(record(f"line {number}"))
    assert written() == ["line 0", "line 1", "line 2"]
    handler.enqueue(record("line 10"))
    handler.enqueue(record("line 11"))
    assert written() == ["7 lines dropped", "line 10", "line 11"]


def test_line_dropped_after_the_note_starts_a_new_count() -> None:
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(1)
    handler = DroppingQueueHandler(waiting)
    for number in range(4):
        handler.enqueue(record(f"line {number}"))
    assert waiting.get_nowait().getMessage() == "line 0"
    handler.enqueue(record("line 4"))
    assert waiting.get_nowait().getMessage() == "3 lines dropped"
    handler.enqueue(record("line 5"))
    assert waiting.get_nowait().getMessage() == "1 lines dropped"


def test_line_of_a_request_fits_its_item_of_the_budget(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        AccessLog(logging.getLogger("access"), "").log(
            make_mocked_request("GET", "/health?" + 16_000 * "x"), web.Response(), 0.1
        )
    assert "GET /health?xxx" in caplog.messages[0]
    assert sys.getsizeof(caplog.messages[0]) <= LOG_RECORD


STATUS = "/exports/6f1c0f8e-7c1b-4a52-9d3e-0a1b2c3d4e5f"


@pytest.mark.parametrize(
    ("method", "target", "status", "level"),
    [
        ("GET", f"{STATUS}/status", 200, logging.DEBUG),
        ("GET", STATUS, 200, logging.DEBUG),
        ("GET", f"/reports{STATUS}/status", 304, logging.DEBUG),
        ("GET", f"{STATUS}/status", 404, logging.INFO),
        ("GET", f"{STATUS}/status", 503, logging.INFO),
        ("GET", f"{STATUS}/download", 200, logging.INFO),
        ("DELETE", STATUS, 204, logging.INFO),
        ("GET", "/exports", 200, logging.INFO),
        ("GET", "/exports/csv", 200, logging.INFO),
    ],
)
def test_polls_of_the_status_are_logged_at_debug_unless_they_fail(
    caplog: pytest.LogCaptureFixture, method: str, target: str, status: int, level: int
) -> None:
    with caplog.at_level(logging.DEBUG):
        AccessLog(logging.getLogger("access"), "").log(
            make_mocked_request(method, target), web.Response(status=status), 0.1
        )
    assert [record.levelno for record in caplog.records] == [level]


@asynccontextmanager
async def serving_to(stderr: int, folder: Path, database: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The server as a process of its own with this stderr, and its URL, found without reading stderr."""
    async with connected(database) as connection:
        await connection.execute("CREATE TABLE users AS SELECT 1 AS id")
    environment = {"PATH": os.environ["PATH"], "DATABASE_URL": database, "API_PORT": "0"}
    process = await asyncio.create_subprocess_exec(STREAMER, "serve", cwd=folder, env=environment, stderr=stderr)

    def ports() -> list[int]:
        sockets = psutil.Process(process.pid).net_connections("tcp")
        return [found.laddr.port for found in sockets if found.status == psutil.CONN_LISTEN]

    async def listening() -> bool:
        assert process.returncode is None, f"the server ended with {process.returncode}"
        return bool(ports())

    try:
        await until(listening, "the server listens")
        yield process, f"http://127.0.0.1:{ports()[0]}"
    finally:
        await killed(process)


async def test_server_responds_while_its_log_has_no_reader(
    tmp_path: Path, database: str, session: aiohttp.ClientSession
) -> None:
    with stuffed_pipe() as (_, stderr):
        async with serving_to(stderr, tmp_path, database) as (_, url):
            for _ in range(LOG_QUEUE + 500):
                async with session.get(f"{url}/health") as response:
                    assert response.status == 200


async def test_server_stops_in_time_while_its_log_has_no_reader(tmp_path: Path, database: str) -> None:
    with stuffed_pipe() as (_, stderr):
        async with serving_to(stderr, tmp_path, database) as (process, _):
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_last_line_of_the_server_is_that_it_is_stopping(tmp_path: Path, database: str) -> None:
    with (tmp_path / "log").open("w+b") as log:
        async with serving_to(log.fileno(), tmp_path, database) as (process, _):
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
        log.seek(0)
        assert log.read().decode().rstrip().endswith("stopping")
