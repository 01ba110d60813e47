"""The commands of the client as real processes: the file, the sentence, the exit status.

After a run that ends early the file does not exist, and the next run resumes the part, or says why it cannot.
"""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.acceptance.clients import grown
from tests.acceptance.process import STREAMER, TREE, Process, streamer
from tests.acceptance.relay import StallingRelay, relaying
from tests.conftest import connected
from tests.held import LARGE, Held, HeldExport
from tests.integration.pretender import pretending, says
from tests.polling import until
from tests.ports import free_port

WHOLE = LARGE.whole
FIRST = len(LARGE.through(1))
STALL = 2_000_000  # bytes that a pull gets before it is held
LATE = 60.0  # seconds for one that may be in a long pause between two tries when the server is back
VERBS = ("pull", "export", "ls", "status", "cancel", "rm")
HELD = "CREATE FUNCTION held() RETURNS int LANGUAGE sql AS 'SELECT 1 FROM (SELECT pg_advisory_lock_shared(8)) AS lock'"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "local"
    folder.mkdir()
    return folder


async def run(folder: Path, *arguments: str, exit_status: int = 0, place: Mapping[str, str] | None = None) -> Process:
    """`place` has variables of the environment."""
    async with streamer(*arguments, folder=folder, environment=place) as process:
        code = await process.exit_code()
    assert code == exit_status, (process.stdout, process.stderr)
    return process


def sentence(process: Process) -> str:
    """Returns the reason, which is the first of at most two lines; the second one says how to continue."""
    assert 1 <= len(process.stderr) <= 2, process.stderr
    assert process.stderr[0].startswith("streamer: ")
    assert "Traceback" not in "".join(process.stderr)
    return process.stderr[0]


def content_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@asynccontextmanager
async def stalled(export: HeldExport, folder: Path, *options: str) -> AsyncIterator[tuple[Process, StallingRelay]]:
    """A pull that has received a part of the file, and waits for more."""
    relay = StallingRelay(export.held.url, STALL)
    async with relaying(relay) as relayed:
        target = relayed + export.download
        async with streamer("pull", target, "-o", "x.csv", *options, folder=folder) as process:
            await grown(folder / "x.csv.part", STALL // 2)
            yield process, relay


async def test_export_creates_an_export_and_follows_it_to_a_verified_file(held: Held, folder: Path) -> None:
    arguments = (
        "export",
        "--dataset",
        LARGE.name,
        "--where",
        "id__lte=100",
        "--columns",
        "text,id",
        "-o",
        "x.csv",
        "--json",
    )
    process = await run(folder, *arguments, place={"STREAMER_URL": held.url})
    told = json.loads(process.stdout[0])
    lines = (content_of(folder / "x.csv") or b"").splitlines()
    assert lines[0] == b"text,id"
    assert told["rows"] == len(lines) - 1 == 100
    assert told["exitStatus"] == 0
    assert process.stderr == []
    assert names(folder) == {"x.csv"}


async def test_a_growing_export_is_pulled_to_its_end(held: Held, folder: Path) -> None:
    export = await held.export(LARGE, at=1)
    async with streamer("pull", export.url, "-o", "x.csv", folder=folder) as process:
        await grown(folder / "x.csv.part", FIRST)
        await held.open()
        assert await process.exit_code() == 0
    assert content_of(folder / "x.csv") == WHOLE
    assert (process.stdout, process.stderr) == ([], [])


async def test_a_part_is_resumed_while_the_export_grows(held: Held, folder: Path) -> None:
    export = await held.export(LARGE, at=1)
    async with streamer("pull", export.url, "-o", "x.csv", folder=folder) as process:
        await grown(folder / "x.csv.part", FIRST)
        process.signal(signal.SIGKILL)
        await process.exit_code()
    async with streamer("pull", export.url, "-o", "x.csv", "--json", folder=folder) as process:
        await held.open()
        assert await process.exit_code() == 0
    assert content_of(folder / "x.csv") == WHOLE
    assert json.loads(process.stdout[0])["alreadyThere"] == FIRST


@pytest.mark.parametrize("connections", ["1", "3"])
async def test_a_killed_pull_of_a_sealed_export_is_resumed(held: Held, folder: Path, connections: str) -> None:
    export = await held.completed(LARGE)
    async with stalled(export, folder, "--connections", connections) as (process, _):
        process.signal(signal.SIGKILL)
        await process.exit_code()
    await run(folder, "pull", export.url, "-o", "x.csv", "--connections", connections)
    assert content_of(folder / "x.csv") == WHOLE
    assert names(folder) == {"x.csv"}


async def test_standard_output_gets_every_byte(held: Held, folder: Path) -> None:
    export = await held.completed(LARGE)
    process = await run(folder, "pull", export.url, "-o", "-")
    assert "\n".join(process.stdout).encode() + b"\n" == WHOLE
    assert names(folder) == set()


@pytest.mark.parametrize(
    ("command", "begun"),
    [
        ("pull DOWNLOAD -o - > /dev/full", 0),
        ("pull DOWNLOAD -o x.csv --json > /dev/full", 0),
        ("pull DOWNLOAD -o - >&-", 0),
        ("export --server SERVER -o - >&-", 0),
        ("export --server SERVER -o x.csv --json > /dev/full", 1),
        ("ls --server SERVER > /dev/full", 0),
        ("status DOWNLOAD --json >&-", 0),
        ("cancel DOWNLOAD > /dev/full", 0),
    ],
)
async def test_an_unusable_standard_output_is_one_sentence(folder: Path, command: str, begun: int) -> None:
    async with pretending(b"id\n" + b"1\n" * 100_000) as pretender:
        command = command.replace("DOWNLOAD", pretender.download).replace("SERVER", pretender.url)
        reason = " is closed" if "&" in command else ": No space left on device"
        assert await by_shell(folder, f"{STREAMER} {command}") == (1, f"streamer: standard output{reason}\n")
        assert len(pretender.keys) == begun


@pytest.mark.parametrize("stream", ["2> /dev/full", "2>&-"])
async def test_an_unusable_standard_error_keeps_the_exit_status(folder: Path, stream: str) -> None:
    async with pretending(b"id\n1\n") as pretender:
        assert await by_shell(folder, f"{STREAMER} pull {pretender.download} -o x.csv {stream}") == (0, "")
        assert content_of(folder / "x.csv") == b"id\n1\n"
        pretender.state = "failed"
        assert await by_shell(folder, f"{STREAMER} pull {pretender.download} -o y.csv {stream}") == (3, "")


async def test_an_impossible_file_name_is_one_sentence(folder: Path) -> None:
    async with pretending(b"id\n1\n") as pretender:
        for verb, name in ((f"pull {pretender.download}", "x" * 300), (f"export --server {pretender.url}", "x" * 252)):
            status, said = await by_shell(folder, f"{STREAMER} {verb} -o {name}")
            assert (status, len(said.splitlines())) == (1, 1), said
            assert said.startswith("streamer: xxx")
            assert said.endswith(": File name too long\n")
        assert pretender.keys == []
        assert names(folder) == set()


async def test_an_export_is_saved_in_a_folder_and_through_a_symbolic_link(folder: Path) -> None:
    (folder / "into").mkdir()
    (folder / "link.csv").symlink_to("into/real.csv")
    async with pretending(b"id\n1\n") as pretender:
        for output in ("into", "link.csv"):
            await run(folder, "export", "--server", pretender.url, "-o", output)
        default = f"export_{pretender.id}.csv"
    assert names(folder / "into") == {default, "real.csv"}
    assert content_of(folder / "into" / default) == content_of(folder / "link.csv") == b"id\n1\n"
    assert names(folder) == {"into", "link.csv"}


async def test_a_closed_pipe_ends_the_pull_silently(held: Held, folder: Path) -> None:
    script = f"{STREAMER} pull {(await held.completed(LARGE)).url} -o - | head -c 10 > begin; exit ${{PIPESTATUS[0]}}"
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", script), cwd=folder, env=environment(folder), stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert (process.returncode, said) == (141, b"")
    assert content_of(folder / "begin") == WHOLE[:10]


async def test_an_export_that_fails_has_exit_status_3(held: Held, folder: Path) -> None:
    export = await held.export(LARGE, at=1)
    async with streamer("pull", export.url, "-o", "x.csv", folder=folder) as process:
        await grown(folder / "x.csv.part", FIRST)
        await export.fail()
        assert await process.exit_code() == 3
    assert "failed on the server" in sentence(process)
    assert names(folder) == {"x.csv.part", "x.csv.part.json"}
    assert "failed on the server" in sentence(await run(folder, "pull", export.url, "-o", "x.csv", exit_status=3))


async def test_an_export_that_is_cancelled_has_exit_status_4(held: Held, folder: Path) -> None:
    export = await held.export(LARGE, at=1)
    async with streamer("pull", export.url, "-o", "x.csv", folder=folder) as process:
        await grown(folder / "x.csv.part", FIRST)
        await export.cancel()
        assert await process.exit_code() == 4
    assert "was cancelled" in sentence(process)
    assert "x.csv" not in names(folder)


async def test_giving_up_has_exit_status_5_and_the_next_run_completes(held: Held, folder: Path) -> None:
    export = await held.completed(LARGE)
    relay = StallingRelay(held.url, STALL)
    async with relaying(relay) as relayed:
        target = relayed + export.download
        process = await run(folder, "pull", target, "-o", "x.csv", "--max-time", "3", exit_status=5)
    assert "not finished within 3 s" in sentence(process)
    assert "resumes it" in process.stderr[1]
    await run(folder, "pull", export.url, "-o", "x.csv")
    assert content_of(folder / "x.csv") == WHOLE


async def test_max_time_includes_the_creation(folder: Path) -> None:
    async with pretending(b"id\n1\n") as pretender:
        pretender.statuses = [says(429, headers={"Retry-After": "3600"}, detail="100 exports are waiting already")]
        arguments = "export", "-o", "x.csv", "--max-time", "1", "--server", pretender.url
        process = await run(folder, *arguments, exit_status=5)
    assert process.stderr == ["streamer: not finished within 1 s: 100 exports are waiting already"]
    assert names(folder) == set()


async def test_a_silent_connection_is_replaced(held: Held, folder: Path) -> None:
    export = await held.completed(LARGE)
    async with stalled(export, folder, "--timeout", "0.3", "--connections", "4") as (process, _):
        assert await process.exit_code() == 0
    assert content_of(folder / "x.csv") == WHOLE


async def test_a_wrong_hash_has_exit_status_6_and_a_page_of_html_1(folder: Path) -> None:
    async with pretending(b"id\n1\n") as pretender:
        pretender.sha256 = "0" * 64
        process = await run(folder, "pull", pretender.download, "-o", "x.csv", "--json", exit_status=6)
        assert json.loads(process.stdout[0])["exitStatus"] == 6
        pretender.statuses = [says(200)]
        assert "not a streamer" in sentence(await run(folder, "pull", pretender.download, exit_status=1))
    assert names(folder) == set()


async def test_the_api_key_is_sent_only_to_its_server(folder: Path) -> None:
    async with pretending(b"id\n1\n") as ours, pretending(b"id\n2\n") as other:
        place = {"STREAMER_URL": ours.url, "STREAMER_API_KEY": "secret"}
        await run(folder, "pull", str(ours.id), "-o", "x.csv", place=place)
        await run(folder, "pull", ours.download, "-o", "y.csv", place=place)
        await run(folder, "pull", other.download, "-o", "z.csv", place=place)
        await run(folder, "status", other.download, "--json", place=place)
    assert ours.authorizations == {"Bearer secret"}
    assert other.authorizations == {None}


async def test_a_missing_rich_is_one_sentence(folder: Path) -> None:
    script = "import sys; sys.modules['rich'] = None; from streamer.cli import main; main()"
    async with pretending(b"id\n1\n") as pretender:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", script, "status", pretender.download),
            env=environment(folder),
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
    assert process.returncode == 1
    assert said == b"Error: a table needs the packages of streamer[client]; use --json without them\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("pull",),
        ("pull", "x", "--connections", "0"),
        ("pull", "x", "-o", "-", "--json"),
        ("pull", "x", "-o", "-", "--connections", "2"),
        ("export", "--where", "country_code"),
        *(("export", "--set", f"{name}=x") for name in ("dataset", "columns", "filters", "where", "label", "ttl")),
        ("ls", "--status", "done"),
    ],
)
async def test_wrong_usage_has_exit_status_2(folder: Path, arguments: Sequence[str]) -> None:
    process = await run(folder, *arguments, exit_status=2)
    assert process.stderr[0].startswith("Usage: ")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--where", "id__lte="), "streamer: id__lte: must be a whole number"),
        (("--where", "text__contains="), "streamer: text__contains: must not be empty"),
        (("--columns", ""), "streamer: columns: must not be empty"),
        (("--set", "limit="), "streamer: limit: must be a whole number of rows"),
        (("--set", "delimiter=\\t"), "streamer: delimiter: must be exactly one ASCII character, or the word tab"),
    ],
)
async def test_an_empty_shell_variable_in_a_condition_is_refused(
    held: Held, folder: Path, arguments: Sequence[str], reason: str
) -> None:
    place = {"STREAMER_URL": held.url}
    process = await run(folder, "export", "--dataset", LARGE.name, *arguments, exit_status=1, place=place)
    assert sentence(process).startswith(reason)
    assert names(folder) == set()


async def test_ctrl_c_leaves_a_part_that_the_next_run_resumes(held: Held, folder: Path) -> None:
    export = await held.completed(LARGE)
    async with stalled(export, folder) as (process, _):
        process.signal(signal.SIGINT)
        assert await process.exit_code() == 130
    assert sentence(process) == "streamer: interrupted"
    assert "x.csv.part has the bytes received so far" in process.stderr[1]
    process = await run(folder, "pull", export.url, "-o", "x.csv", "--json")
    assert json.loads(process.stdout[0])["alreadyThere"] >= STALL // 2
    assert content_of(folder / "x.csv") == WHOLE


@pytest.mark.parametrize(("options", "state"), [((), "processing"), (("--cancel-on-interrupt",), "cancelled")])
async def test_cancel_on_interrupt_cancels_the_export_on_the_server(
    held: Held, folder: Path, options: Sequence[str], state: str
) -> None:
    await held.export(LARGE, at=1)  # it shuts the gates
    arguments = "export", "--dataset", LARGE.name, "-o", "x.csv", *options
    async with streamer(*arguments, folder=folder, environment={"STREAMER_URL": held.url}) as process:
        await grown(folder / "x.csv.part", FIRST)
        process.signal(signal.SIGINT)
        assert await process.exit_code() == 130
    assert process.stderr[1].startswith("the export ")
    assert names(folder) == ({"x.csv.part", "x.csv.part.json"} if state == "processing" else set())
    listed = await run(folder, "ls", "--limit", "1", "--json", place={"STREAMER_URL": held.url})
    assert json.loads(listed.stdout[0])[0]["status"] == state


async def test_a_concurrent_pull_of_the_same_file_is_one_sentence(held: Held, folder: Path) -> None:
    export = await held.completed(LARGE)
    async with stalled(export, folder) as (first, relay):
        second = await run(folder, "pull", export.url, "-o", "x.csv", exit_status=1)
        assert "another pull is writing x.csv.part" in sentence(second)
        relay.release()
        assert await first.exit_code() == 0
    assert content_of(folder / "x.csv") == WHOLE


@pytest.mark.parametrize("connections", ["1", "3"])
async def test_a_full_disk_is_one_sentence_and_the_next_run_resumes(held: Held, folder: Path, connections: str) -> None:
    export = await held.completed(LARGE)
    limited = [sys.executable, "-c", LIMITED, str(STALL), str(STREAMER), "pull", export.url, "-o", "x.csv"]
    process = await asyncio.create_subprocess_exec(
        *limited, "--connections", connections, cwd=folder, stderr=asyncio.subprocess.PIPE, env=environment(folder)
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    assert said.decode().startswith("streamer: x.csv.part: File too large\n")
    assert "x.csv" not in names(folder)
    await run(folder, "pull", export.url, "-o", "x.csv", "--connections", connections)
    assert content_of(folder / "x.csv") == WHOLE
    assert names(folder) == {"x.csv"}


async def test_a_pull_survives_the_restart_of_a_killed_server(
    database: str, session: aiohttp.ClientSession, folder: Path, tmp_path: Path
) -> None:
    """The pull of a completed export is resumed; an export of which no byte was served is run again and followed."""
    async with connected(database) as hand:
        await hand.execute(HELD)
        await hand.execute("CREATE VIEW waiting AS SELECT held() AS id")
        await hand.execute("CREATE VIEW large AS SELECT generate_series(1, 1000000) AS id")
        settings = {"DATABASE_URL": database, "DATASETS": "waiting,large", "API_PORT": str(free_port())}
        url = f"http://127.0.0.1:{settings['API_PORT']}"
        place = {"STREAMER_URL": url}
        async with streamer("serve", folder=tmp_path, environment=settings) as server:
            await server.url()
            await run(folder, "export", "--dataset", "large", "-o", "first.csv", place=place)
            listed = await began(session, url, 1)
            relay = StallingRelay(url, STALL)
            async with relaying(relay) as relayed:
                large = f"{relayed}/exports/{listed[0]['exportId']}"
                await hand.execute("SELECT pg_advisory_lock(8)")
                waiting = streamer("export", "--dataset", "waiting", "-o", "w.csv", folder=folder, environment=place)
                pulling = streamer("pull", large, "-o", "second.csv", "--timeout", "5", folder=folder)
                async with waiting as waits, pulling as pulls:
                    await grown(folder / "second.csv.part", STALL // 2)
                    await began(session, url, 2)
                    server.signal(signal.SIGKILL)
                    await server.exit_code()
                    relay.release()
                    await asyncio.sleep(0.3)
                    async with streamer("serve", folder=tmp_path, environment=settings) as again:
                        await again.url()
                        await hand.execute("SELECT pg_advisory_unlock(8)")
                        assert await pulls.exit_code(within=LATE) == 0, pulls.stderr
                        assert await waits.exit_code(within=LATE) == 0, waits.stderr
    assert content_of(folder / "second.csv") == content_of(folder / "first.csv")
    assert content_of(folder / "w.csv") == b"id\n1\n"


async def test_the_exports_of_a_server_are_listed_shown_cancelled_and_removed(held: Held, folder: Path) -> None:
    export = await held.export(LARGE, at=1)
    place = {"STREAMER_URL": held.url, "COLUMNS": "80"}
    listed = await run(folder, "ls", place=place)
    identifier = export.id
    assert listed.stdout[1].startswith(f"{identifier} processing")
    assert all(len(line) <= 80 for line in listed.stdout)
    shown = await run(folder, "status", identifier, place=place)
    assert any(re.fullmatch(rf"dataset +{LARGE.name} *", line) for line in shown.stdout)
    assert json.loads((await run(folder, "status", export.url, "--json")).stdout[0])["status"] == "processing"
    assert (await run(folder, "cancel", identifier, place=place)).stdout == [f"{identifier} is cancelled"]
    assert (await run(folder, "cancel", identifier, place=place)).stdout == [f"{identifier} is cancelled"]
    assert (await run(folder, "rm", identifier, place=place)).stdout == [f"{identifier} is removed"]
    unknown = await run(folder, "status", "00000000-0000-0000-0000-000000000000", exit_status=4, place=place)
    assert "there is no export" in sentence(unknown)


async def test_an_export_with_label_and_ttl_is_found_by_its_label(held: Held, folder: Path) -> None:
    place = {"STREAMER_URL": held.url, "COLUMNS": "80"}
    label = "Month end [red]x[/] " + "and a long rest " * 5
    options = ("--where", "id__lte=10", "--label", label, "--ttl", "2h", "-o", "x.csv", "--json")
    process = await run(folder, "export", "--dataset", LARGE.name, *options, place=place)
    identifier = json.loads(process.stdout[0])["exportId"]
    await run(folder, "export", "--dataset", LARGE.name, "--where", "id__lte=10", "-o", "y.csv", place=place)
    listed = await run(folder, "ls", "--label", "MONTH END", place=place)
    assert [line.split()[0] for line in listed.stdout] == ["EXPORT", identifier, "Month", LARGE.name]
    assert listed.stdout[2].startswith("  Month end [red]x[/] ")
    assert all(len(line) <= 80 for line in listed.stdout)
    (found,) = json.loads((await run(folder, "ls", "--label", "month", "--json", place=place)).stdout[0])
    assert (found["exportId"], found["label"], found["ttl"]) == (identifier, label, 7200)
    shown = await run(folder, "status", identifier, place=place)
    assert any(line.startswith("label") and "[red]x[/]" in line for line in shown.stdout)
    too_long = ("export", "--dataset", LARGE.name, "--ttl", "30d", "-o", "z.csv")
    assert "ttl: must be a duration" in sentence(await run(folder, *too_long, exit_status=1, place=place))
    assert not (folder / "z.csv").exists()


@contextmanager
def serving_slowly(folder: Path) -> Iterator[str]:
    """Yields the URL of a test server, in another process, whose export runs until it is cancelled."""
    script = (
        "import asyncio\nfrom tests.acceptance.test_pull import pretend_to_be_slow\nasyncio.run(pretend_to_be_slow())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment(folder), stdout=subprocess.PIPE, text=True
    ) as pretender:
        assert pretender.stdout
        try:
            yield pretender.stdout.readline().strip()
        finally:
            pretender.terminate()


def test_a_terminal_of_80_columns_shows_a_bar_and_a_question_after_ctrl_c(folder: Path) -> None:
    """The question is answered with yes on a pseudo-terminal; a test server runs in another process."""
    with serving_slowly(folder) as url:
        said = in_a_terminal(folder, url)
    screen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    assert "x.csv" in screen
    assert "processing, 1 of about 2 rows" in screen
    assert "Cancel the export on the server, too? [y/N]: y" in screen
    assert "the export is cancelled on the server, too" in screen
    assert max(len(line.rstrip()) for line in re.split(r"[\r\n]+", screen)) <= 80


@pytest.mark.parametrize("verb", VERBS)
async def test_help_has_examples_and_exit_statuses(folder: Path, verb: str) -> None:
    process = await run(folder, verb, "--help")
    text = "\n".join(process.stdout)
    assert re.search(rf"Examples?:\n +streamer {verb} ", text)
    if verb in ("pull", "export"):
        assert re.search(r"Exit status:\n +0 ", text)


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("streamer.cli", {"aiohttp", "asyncpg", "rich", "tenacity", "streamer.client", "streamer.server"}),
        ("streamer.client", {"asyncpg", "click", "isal", "rich", "streamer.config", "streamer.http", "streamer.jobs"}),
    ],
)
def test_unneeded_modules_are_not_imported(module: str, unwanted: set[str]) -> None:
    script = f"import sys, {module}; print('\\n'.join(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=TREE).stdout
    assert not unwanted & set(found.splitlines())


async def test_the_shell_completes_commands(folder: Path) -> None:
    completing = {"_STREAMER_COMPLETE": "bash_complete", "COMP_WORDS": "streamer pu", "COMP_CWORD": "1"}
    assert (await run(folder, place=completing)).stdout == ["plain,pull"]


LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


def environment(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": TREE}


async def by_shell(folder: Path, command: str) -> tuple[int, str]:
    """Returns the exit status, and the text of standard error."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", command), cwd=folder, env=environment(folder), stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def began(session: aiohttp.ClientSession, url: str, count: int) -> list[dict[str, Any]]:
    """Returns the list of exports, once there are so many and the latest one has started."""
    found: list[dict[str, Any]] = []

    async def known() -> bool:
        async with session.get(f"{url}/exports") as response:
            found[:] = (await response.json())["exports"]
        return len(found) == count and found[0]["startedAt"] is not None

    await until(known, f"the server has {count} exports")
    return found


async def pretend_to_be_slow() -> None:
    """Serves an export that runs until it is cancelled, and prints its URL."""
    async with pretending(b"id\n1\n2\n") as pretender:
        pretender.state = "processing"
        print(pretender.url, flush=True)
        await asyncio.Event().wait()


def in_a_terminal(folder: Path, url: str) -> str:
    """Returns the output of `streamer export` in a terminal, after Ctrl-C and a question that is answered with yes."""
    arguments = [str(STREAMER), "export", "-o", "x.csv", "--server", url]
    child, terminal = pty.fork()
    if not child:
        os.chdir(folder)
        os.execve(arguments[0], arguments, {**environment(folder), "TERM": "xterm", "COLUMNS": "80", "LINES": "24"})
    said = b""
    for awaited, typed in ((b"of about 2 rows", b"\x03"), (b"[y/N]", b"y\n"), (b"", b"")):
        while not awaited or awaited not in said:
            try:
                said += os.read(terminal, 4096)
            except OSError:
                break
        os.write(terminal, typed)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130, said
    return said.decode()
