"""`streamer docs`: the pages on the terminal, without the server and without the client."""

import os
import pty
import re
import subprocess
import sys
from contextlib import suppress

import pytest
from click.testing import CliRunner

from streamer.cli import main
from streamer.docs import NAMES, read_page

HEAVY = {"aiohttp", "asyncpg", "msgspec", "markdown_it", "streamer.config", "streamer.client", "streamer.server"}


def test_without_a_name_all_pages_are_listed_in_80_columns() -> None:
    ended = CliRunner().invoke(main, ["docs"])
    lines = ended.output.splitlines()
    assert ended.exit_code == 0
    assert [line.split()[0] for line in lines[: len(NAMES)]] == list(NAMES)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", NAMES)
def test_page_is_printed_as_its_markdown_if_there_is_no_terminal(name: str) -> None:
    ended = CliRunner().invoke(main, ["docs", name])
    assert (ended.exit_code, ended.output) == (0, read_page(name).text)


def test_name_of_the_file_works_too() -> None:
    assert CliRunner().invoke(main, ["docs", "settings.md"]).output == read_page("settings").text


def test_unknown_name_is_one_sentence_with_the_nearest_one() -> None:
    ended = CliRunner().invoke(main, ["docs", "seting"])
    assert (ended.exit_code, ended.output) == (1, "streamer: there is no page 'seting'; did you mean 'settings'?\n")


def test_nothing_of_the_server_and_the_client_is_imported() -> None:
    script = (
        "import sys\nfrom streamer.cli import main\n"
        "main(['docs', 'settings'], standalone_mode=False)\n"
        f"print(*({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert ended.stderr == "\n"
    assert ended.stdout == read_page("settings").text


def test_reader_that_leaves_ends_the_command_quietly() -> None:
    command = f"{sys.executable} -m streamer docs operations | head -n 1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert (ended.stdout, ended.stderr) == ("# Operations\n", "")
    assert ended.returncode in {0, 141}  # 0 if all of it was in the pipe before its reader left


def test_full_disk_is_one_sentence() -> None:
    command = f"{sys.executable} -m streamer docs settings > /dev/full"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stderr) == (1, "streamer: standard output: No space left on device\n")


def test_pipe_gets_utf_8_whatever_the_locale_is() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "streamer", "docs", "how-it-works"]
    ended = subprocess.run(command, capture_output=True, env=environment, timeout=30, check=True)
    assert ended.stdout.decode() == read_page("how-it-works").text


def on_a_terminal(*command: str) -> str:
    """What a command writes to a terminal, and its status must be 0."""
    leader, follower = pty.openpty()
    with subprocess.Popen(command, stdout=follower, env={**os.environ, "TERM": "xterm", "COLUMNS": "80"}) as process:
        os.close(follower)
        written = b""
        with suppress(OSError):  # EIO: the command has ended
            while piece := os.read(leader, 65536):
                written += piece
        os.close(leader)
    assert process.returncode == 0
    return written.decode()


def test_terminal_gets_tables_that_fit_and_no_markdown() -> None:
    shown = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(sys.executable, "-m", "streamer", "docs", "glossary"))
    assert "Glossary" in shown
    assert "| --- |" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_terminal_without_rich_gets_markdown() -> None:
    script = "import sys; sys.modules['rich'] = None; from streamer.cli import main; main(['docs', 'glossary'])"
    shown = on_a_terminal(sys.executable, "-c", script)
    assert shown.replace("\r\n", "\n") == read_page("glossary").text
