"""What the progress bar draws, on a console of 80 columns and with a clock that the test moves."""

import io
from collections.abc import Iterator
from uuid import UUID

import pytest
from msgspec.structs import replace
from rich.console import Console

from streamer.client.status import ExportStatus
from streamer.coding import Coding
from streamer.commands.bar import ProgressBar
from streamer.schema import ExportProgress, RepresentationStatus, Timestamp

MB = 1_000_000


class Drawn:
    """A progress bar whose clock is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.screen = io.StringIO()
        terminal = Console(file=self.screen, force_terminal=True, width=80, color_system=None)
        self.bar = ProgressBar("users.csv", console=terminal, clock=lambda: self.now)

    @property
    def lines(self) -> list[str]:
        console = Console(file=io.StringIO(), record=True, width=80)
        console.print(self.bar.display)
        lines = console.export_text().splitlines()
        assert all(len(line) <= 80 for line in lines)
        return [" ".join(line.replace("━", "").replace("╸", "").split()) for line in lines]

    def receive(self, *counts: int) -> None:
        """Each count comes one second after the one before it."""
        for count in counts:
            self.bar.received(count)
            self.now += 1


@pytest.fixture
def drawn() -> Iterator[Drawn]:
    drawn = Drawn()
    with drawn.bar:
        yield drawn


def status(
    name: str = "processing", rows: int = 0, total: int = 0, size: int = 0, waiting_for: str | None = None
) -> ExportStatus:
    return ExportStatus(
        export_id=UUID(int=1),
        status=name,
        progress=ExportProgress(processed_rows=rows, bytes=size, percentage=0, total_rows=total, estimated=True),
        waiting_for=waiting_for,
        expires_at=Timestamp(2026, 1, 1),
        etag='"x"',
    )


def test_what_is_not_known_is_not_drawn(drawn: Drawn) -> None:
    drawn.receive(0, 27 * MB)
    drawn.bar.status(status("pending", waiting_for="place"))  # a moment ago
    assert drawn.lines == ["users.csv 27.0 MB 13.5 MB/s", "processing"]


def test_the_first_answer_of_the_server_is_waited_for_in_words(drawn: Drawn) -> None:
    assert drawn.lines == ["users.csv", "waiting for the server"]


def test_nothing_stays_of_a_bar_without_a_download() -> None:
    """The sentence of the command says what happened."""
    drawn = Drawn()
    with drawn.bar:
        drawn.bar.waiting("127.0.0.1:1 cannot be reached: Connection refused", 0.2)
        assert drawn.lines[1].startswith("next try in 1 s: ")
    assert drawn.lines == []


def test_the_rows_are_those_of_the_bytes_if_the_status_is_older(drawn: Drawn) -> None:
    """The status is polled, and bytes come in between: the two lines never contradict each other."""
    drawn.bar.status(status(rows=100, total=1000, size=10 * MB))
    drawn.receive(0, 10 * MB)
    assert drawn.lines[1] == "processing, 100 of about 1,000 rows"
    drawn.receive(27 * MB)
    assert drawn.lines == ["users.csv 27 % 27.0 MB 9.0 MB/s 0:00:08", "processing, about 270 of 1,000 rows"]
    drawn.receive(270 * MB)
    assert drawn.lines[1] == "processing, about 1,000 of 1,000 rows"


def test_percentage_rate_and_remaining_time_are_drawn_once_the_size_can_be_estimated(drawn: Drawn) -> None:
    drawn.receive(0, 10 * MB, 20 * MB)
    drawn.bar.status(status(rows=300, total=1000, size=30 * MB))
    assert drawn.lines == ["users.csv 20 % 20.0 MB 6.7 MB/s 0:00:12", "processing, 300 of about 1,000 rows"]


def test_the_rate_is_that_of_the_last_seconds(drawn: Drawn) -> None:
    drawn.receive(0, 100 * MB, *(100 * MB + second * MB for second in range(1, 9)))
    assert drawn.lines[0] == "users.csv 108.0 MB 800.0 kB/s"  # 4 MB in 5 s, of which the last one has just passed


def test_the_rate_falls_to_the_silence_when_nothing_comes(drawn: Drawn) -> None:
    drawn.receive(0, 5 * MB)
    drawn.now += 1
    assert drawn.lines[0] == "users.csv 5.0 MB 1.7 MB/s"
    drawn.now += 4
    drawn.bar.received(5 * MB)  # as if bytes were reported twice
    assert drawn.lines[0] == "users.csv 5.0 MB no data for 6 s"
    drawn.receive(6 * MB)
    assert drawn.lines[0] == "users.csv 6.0 MB 142.9 kB/s"


@pytest.mark.parametrize(
    ("waiting_for", "note"),
    [
        ("place", "pending, waiting for its turn"),
        ("source", "pending, waiting for the database: unreachable, locked or being changed"),
        ("moon", "pending, waiting for moon"),
    ],
)
def test_the_note_says_what_the_export_waits_for(drawn: Drawn, waiting_for: str, note: str) -> None:
    drawn.bar.status(status("pending", waiting_for=waiting_for))
    assert drawn.lines[1] == note


def test_the_wait_for_the_next_try_is_counted_down(drawn: Drawn) -> None:
    drawn.receive(0, MB)
    drawn.bar.waiting("127.0.0.1:1 cannot be reached: Connection refused", 12.0)
    assert drawn.lines[1] == "next try in 12 s: 127.0.0.1:1 cannot be reached: Connection refused"
    drawn.now += 8
    assert drawn.lines == ["users.csv 1.0 MB no data for 9 s", drawn.lines[1]]
    assert drawn.lines[1] == "next try in 4 s: 127.0.0.1:1 cannot be reached: Connection refused"
    drawn.now += 4
    assert drawn.lines[1] == "trying again: 127.0.0.1:1 cannot be reached: Connection refused"


def test_bytes_end_the_note_about_a_wait(drawn: Drawn) -> None:
    drawn.bar.status(status(rows=1, total=2, size=10))
    drawn.bar.waiting("no answer", 5.0)
    drawn.receive(4)
    assert drawn.lines[1] == "processing, 1 of about 2 rows"


def test_an_estimate_never_reaches_100_percent(drawn: Drawn) -> None:
    drawn.receive(0, 30)
    drawn.bar.status(status(rows=1000, total=1000, size=30))
    assert drawn.lines[0].startswith("users.csv 99 % 30 bytes")


def test_at_the_end_only_the_line_of_the_bytes_stays(drawn: Drawn) -> None:
    """The sentence of the command, which follows, has the rows."""
    drawn.receive(0, 30 * MB)
    drawn.bar.status(status("completed", rows=1000, total=1000, size=30 * MB))
    assert drawn.lines == ["users.csv 100 % 30.0 MB", "completed, 1,000 rows"]
    drawn.bar.__exit__(None, None, None)
    assert drawn.lines == ["users.csv 100 % 30.0 MB"]


def test_the_bytes_of_earlier_runs_are_no_rate(drawn: Drawn) -> None:
    drawn.bar.checking(500 * MB)
    assert drawn.lines == ["users.csv 500.0 MB", "checking the bytes of earlier runs"]
    drawn.receive(600 * MB, 601 * MB)
    assert drawn.lines[0] == "users.csv 601.0 MB 500.0 kB/s"


def made(state: str, size: int) -> RepresentationStatus:
    return RepresentationStatus(state=state, etag='"x"', bytes=size)


def test_the_size_of_a_compressed_file_is_drawn_once_the_server_has_made_it(drawn: Drawn) -> None:
    """The bytes of the CSV say nothing about it."""
    drawn.bar = ProgressBar("users.csv.gz", Coding.GZIP, clock=lambda: drawn.now)
    drawn.receive(0, 2 * MB)
    drawn.bar.status(status(rows=100, total=1000, size=10 * MB))
    assert drawn.lines == ["users.csv.gz 2.0 MB 1.0 MB/s", "processing, 100 of about 1,000 rows"]
    completed = status("completed", rows=1000, total=1000, size=100 * MB)
    drawn.bar.status(replace(completed, representations={"gzip": made("processing", 0)}))
    assert drawn.lines == ["users.csv.gz 2.0 MB 1.0 MB/s", "completed, 1,000 rows"]
    drawn.bar.status(replace(completed, representations={"gzip": made("completed", 20 * MB)}))
    assert drawn.lines[0] == "users.csv.gz 10 % 2.0 MB 1.0 MB/s 0:00:18"
    drawn.receive(20 * MB)
    assert drawn.lines[0] == "users.csv.gz 100 % 20.0 MB"


def test_decoding_is_a_step_of_its_own(drawn: Drawn) -> None:
    drawn.receive(0, 2 * MB)
    drawn.bar.decoding(7 * MB)
    assert drawn.lines[1] == "decoding: 7.0 MB of the CSV"


def test_a_long_name_is_cut_at_its_beginning() -> None:
    drawn = Drawn()
    drawn.bar = ProgressBar("a_very_long_name_of_a_file.csv", console=Console(file=io.StringIO(), width=80))
    assert drawn.lines[0].startswith("…_name_of_a_file.csv")
