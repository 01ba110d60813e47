"""What people type, and what the commands answer: options, sentences, exit statuses, terminals."""

import json
import os
import pty
import re
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tests.acceptance.process import STREAMER, streamer
from tests.acceptance.test_pull import VERBS, content_of, environment, names, run, sentence, serving_slowly
from tests.held import LARGE, Held
from tests.integration.pretender import pretending, says

MOMENT = r"[0-9]{2}:[0-9]{2}:[0-9]{2}"
CONTENT = b"id\n1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "local"
    folder.mkdir()
    return folder


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port at which nothing listens: it is bound, so that no other process gets it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


async def test_typed_options_are_the_parameters_of_the_api(held: Held, folder: Path) -> None:
    options = ("--limit", "3", "--order-by", "-id", "--profile", "excel", "--delimiter", ";", "--columns", "id, text")
    arguments = ("export", "--dataset", LARGE.name, *options, "-o", "x.csv", "--json")
    told = json.loads((await run(folder, *arguments, place={"STREAMER_URL": held.url})).stdout[0])
    assert told["rows"] == 3
    lines = (content_of(folder / "x.csv") or b"").decode().splitlines()
    assert lines[0] == "\ufeffid;text"
    assert sorted(map(ident, lines[1:]), reverse=True) == list(map(ident, lines[1:]))


def ident(line: str) -> int:
    return int(line.partition(";")[0])


async def test_no_wait_prints_the_id_alone_and_leaves_the_export_running(held: Held, folder: Path) -> None:
    await held.export(LARGE, at=1)  # it shuts the gates
    place = {"STREAMER_URL": held.url}
    arguments = ("export", "--dataset", LARGE.name, "--no-wait")
    started = await run(folder, *arguments, place=place)
    [identifier] = started.stdout
    assert str(UUID(identifier)) == identifier
    told = json.loads((await run(folder, *arguments, "--json", place=place)).stdout[0])
    assert told == {
        "exitStatus": 0,
        "exportId": told["exportId"],
        "url": f"{held.url}/exports/{told['exportId']}/download",
    }
    assert (started.stderr, names(folder)) == ([], set())
    status = json.loads((await run(folder, "status", identifier, "--json", place=place)).stdout[0])
    assert status["status"] in ("pending", "processing")


@pytest.mark.parametrize(("end", "exit_status"), [("completed", 0), ("failed", 3), ("cancelled", 4)])
async def test_watch_prints_each_change_until_the_export_ends(
    held: Held, folder: Path, end: str, exit_status: int
) -> None:
    export = await held.export(LARGE, at=1)
    async with streamer("status", export.url, "--watch", folder=folder) as process:
        await process.said("processing, .* rows")
        await {"completed": held.open, "failed": export.fail, "cancelled": export.cancel}[end]()
        assert await process.exit_code() == exit_status
    assert all(re.match(rf"{MOMENT} (pending|processing|{end})", line) for line in process.stdout)
    assert len({line[9:] for line in process.stdout}) == len(process.stdout)
    assert re.match(rf"{MOMENT} {end}", process.stdout[-1])
    assert len(process.stderr) == (exit_status != 0)


async def test_watch_prints_json_for_programs(folder: Path) -> None:
    async with pretending(CONTENT) as pretender:
        pretender.state = "cancelled"
        process = await run(folder, "status", pretender.download, "--watch", "--json", exit_status=4)
    shown, told = map(json.loads, process.stdout)
    assert (shown["status"], told["exitStatus"]) == ("cancelled", 4)


async def test_watch_ignores_a_short_absence_of_the_server(folder: Path) -> None:
    async with pretending(CONTENT) as pretender:
        pretender.statuses = [says(503)] * 4
        await run(folder, "status", pretender.download, "--watch")


async def test_ls_lists_the_exports_of_a_dataset_with_their_conditions(held: Held, folder: Path) -> None:
    place = {"STREAMER_URL": held.url, "COLUMNS": "80"}
    await run(folder, "export", "--where", "id__lte=5", "--where", "text__ne=x", "-o", "x.csv", place=place)
    header, export, request = (await run(folder, "ls", "--dataset", LARGE.name, place=place)).stdout
    assert header.split() == ["EXPORT", "STATUS", "ROWS", "SIZE", "CREATED"]
    assert export.split()[1:3] == ["completed", "5"]
    assert request == f"  {LARGE.name} id__lte=5 text__ne=x"
    assert (await run(folder, "ls", "--dataset", "other", place=place)).stdout == [header]


async def test_a_server_needs_no_scheme(folder: Path) -> None:
    async with pretending(CONTENT) as pretender:
        host = pretender.url.removeprefix("http://")
        await run(folder, "pull", str(pretender.id), "--server", host, "-o", "x.csv")
        place = {"STREAMER_URL": host, "STREAMER_API_KEY": "secret"}
        await run(folder, "status", f"{host}/exports/{pretender.id}", "--json", place=place)
        assert pretender.authorizations == {None, "Bearer secret"}
    assert content_of(folder / "x.csv") == CONTENT


@pytest.mark.parametrize(
    "options",
    [
        ("--max-time", "5m"),
        ("--max-time", "300"),
        ("--timeout", "30s"),
        ("--timeout", "0.5"),
        ("--max-tries", "3"),
        ("--retries", "3"),  # the older name
    ],
)
async def test_limits_of_a_download_are_durations_and_tries(folder: Path, options: Sequence[str]) -> None:
    async with pretending(CONTENT) as pretender:
        await run(folder, "pull", pretender.download, "-o", "x.csv", *options)


async def test_the_older_name_of_max_tries_is_not_shown(folder: Path) -> None:
    text = "\n".join((await run(folder, "pull", "--help")).stdout)
    assert "--max-tries N" in text
    assert "--retries" not in text


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("pull", "x", "--max-time", "5x"), "'5x' is not a duration such as 60s, 5m or 24h"),
        (("pull", "x", "--timeout", "0"), "the duration must be more than 0"),
        (("pull", "x", "--timeout", "-1"), "'-1' is not a duration such as 60s, 5m or 24h"),
        (("pull", "x", "--connections", "17"), "'17' is not a whole number from 1 to 16"),
        (("pull", "x", "--max-tries", "many"), "'many' is not a whole number of at least 1"),
        (("pull", "x", "-o", ""), "-o is empty; name a file, or leave it out for export_ID.csv"),
        (("export", "--limit", "-1"), "'-1' is not a whole number of at least 0"),
        (("export", "--no-wait", "-o", "x.csv"), "--no-wait downloads nothing"),
        (("export", "--no-wait", "--force"), "--no-wait downloads nothing"),
        (("export", "--set", "where=x"), "write --where instead of --set where=…"),
        (("export", "--limit", "1", "--set", "limit=2"), "--limit and --set limit=… are the same; give one of them"),
        (
            ("export", "--order-by", "id", "--set", "order_by=id"),
            "--order-by and --set order_by=… are the same; give one of them",
        ),
        (("export", "--where", "lifetime_value>=500"), "write lifetime_value__gte=500"),
        (("ls", "--limit", "0"), "'0' is not a whole number of at least 1"),
        (("serve", "--port", "80x"), "'80x' is not a whole number from 0 to 65535"),
        (("demo", "--port", "99999"), "'99999' is not a whole number from 0 to 65535"),
        (("demo", "--rows", "many"), "'many' is not a whole number of at least 1"),
        (("pull", "x", "--retries", "0"), "Invalid value for '--max-tries': '0' is not a whole number of at least 1"),
    ],
)
async def test_wrong_usage_is_one_sentence(folder: Path, arguments: Sequence[str], reason: str) -> None:
    process = await run(folder, *arguments, exit_status=2)
    assert process.stderr[0].startswith("Usage: ")
    assert process.stderr[-1].startswith("Error: ")
    assert process.stderr[-1].endswith(reason) or reason in process.stderr[-1]


@pytest.mark.parametrize("verb", ["ls", "status", "cancel", "rm", "pull", "export"])
async def test_a_server_that_does_not_run_is_one_sentence_with_the_option(
    folder: Path, closed_port: int, verb: str
) -> None:
    target = [] if verb in ("ls", "export") else [str(uuid4())]
    tries = ["--max-tries", "3"] if verb in ("pull", "export") else []
    process = await run(folder, verb, *target, *tries, "--server", f"127.0.0.1:{closed_port}", exit_status=5)
    assert process.stderr == [
        f"streamer: 127.0.0.1:{closed_port} cannot be reached: Connection refused; gave up after 3 tries; "
        "is it running? set --server or STREAMER_URL"
    ]


async def test_the_server_of_a_url_is_not_that_of_an_option(folder: Path, closed_port: int) -> None:
    url = f"http://127.0.0.1:{closed_port}/exports/{uuid4()}/download"
    process = await run(folder, "pull", url, "--max-tries", "1", exit_status=5)
    assert sentence(process).endswith("gave up after 1 try; is it running?")


async def test_a_name_without_an_address_is_one_sentence(folder: Path) -> None:
    process = await run(folder, "ls", "--server", "nobody.invalid", exit_status=5)
    assert sentence(process).endswith("is its name right? set --server or STREAMER_URL")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("ls", "--server", "https://HOST"), "HOST does not speak TLS; try http://HOST"),
        (("ls", "--server", ""), "'' is not the address of a server, such as http://127.0.0.1:8080"),
        (("ls", "--server", "http://[::1"), "'http://[::1' is not the address of a server"),
        (("status", "x", "--server", "HOST"), "'x' is neither the id nor the URL of an export"),
        (("ls", "--server", "HOST", "--api-key", "two\nlines"), "the API key has characters that are not printable"),
        (
            ("ls", "--server", "http://user:word@HOST", "--api-key", "x"),
            "give either an API key or a password in the URL",
        ),
        (
            ("ls", "--server", "HOST/other"),
            "the server at http://HOST/other/exports?limit=20 is not a streamer server: 404",
        ),
    ],
)
async def test_a_wrong_address_is_one_sentence(folder: Path, arguments: Sequence[str], reason: str) -> None:
    async with pretending(CONTENT) as pretender:
        host = pretender.url.removeprefix("http://")
        process = await run(folder, *(text.replace("HOST", host) for text in arguments), exit_status=1)
    assert sentence(process).startswith(f"streamer: {reason.replace('HOST', host)}")


async def test_any_parameter_of_set_is_judged_by_the_server(held: Held, folder: Path) -> None:
    """`self` is the name of an argument in Python."""
    arguments = ("export", "--dataset", LARGE.name, "--set", "self=x")
    process = await run(folder, *arguments, exit_status=1, place={"STREAMER_URL": held.url})
    assert sentence(process).startswith("streamer: self: unknown parameter")


async def test_only_a_download_that_can_be_resumed_is_said_to_be(held: Held, folder: Path) -> None:
    """Not a part of another export, and not a request that the server refuses."""
    export = await held.completed(LARGE)
    (folder / "x.csv.part").write_bytes(b"id")
    of_another = {"exportId": str(uuid4()), "url": "http://a/exports/x/download", "etag": '"x"'}
    (folder / "x.csv.part.json").write_text(json.dumps(of_another))
    process = await run(folder, "pull", export.url, "-o", "x.csv", exit_status=1)
    assert "is a part of another export" in sentence(process)
    assert len(process.stderr) == 1
    (folder / "x.csv").write_bytes(b"other")
    of_another["exportId"] = export.id
    (folder / "x.csv.part.json").write_text(json.dumps(of_another))
    process = await run(folder, "pull", export.url, "-o", "x.csv", exit_status=1)
    assert process.stderr == ["streamer: x.csv exists already; --force replaces it"]
    async with pretending(CONTENT) as pretender:
        pretender.statuses = [says(401, detail="who are you")]
        process = await run(folder, "pull", pretender.download, "-o", "y.csv", exit_status=1)
    assert process.stderr == ["streamer: who are you; is the API key right?"]


@pytest.mark.parametrize(
    ("path", "program"), [("/usr/bin:/bin", str(STREAMER)), (f"{STREAMER.parent}:/usr/bin:/bin", "streamer")]
)
async def test_a_lost_server_is_not_said_to_run_the_export(folder: Path, path: str, program: str) -> None:
    """The command that continues is one that this user can paste."""
    async with pretending(CONTENT) as pretender:
        pretender.downloads = [says(503)] * 3
        arguments = ("export", "--server", pretender.url, "-o", "x.csv", "--max-tries", "3")
        process = await run(folder, *arguments, exit_status=5, place={"PATH": path})
    assert sentence(process).endswith("503 Service Unavailable; gave up after 3 tries")
    resume = f"`{program} pull {pretender.download} -o x.csv` continues the download"
    assert process.stderr[1] == f"the export was not cancelled; {resume}"


@pytest.mark.parametrize("verb", VERBS)
async def test_help_has_the_exit_statuses(folder: Path, verb: str) -> None:
    text = "\n".join((await run(folder, verb, "--help", place={"COLUMNS": "80"})).stdout)
    statuses = re.findall(r"^ +([0-9]+)  +[a-zF]", text.partition("Exit status:")[2], re.MULTILINE)
    assert {"0", "1", "2", "5", "130", "141", "143"} <= set(statuses)
    assert statuses == sorted(statuses, key=int)
    assert "New statuses may come: treat an unknown one as a failure." in text
    assert max(map(len, text.splitlines())) <= 80


def test_watch_redraws_the_table_of_a_terminal(folder: Path) -> None:
    with serving_slowly(folder) as url:
        code, said = in_terminal(
            folder, ["status", f"{url}/exports/{uuid4()}", "--watch"], b"of about 2", signal.SIGINT
        )
    screen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    assert code == 130
    assert re.search(r"status +processing", screen)
    assert "streamer: interrupted" in screen
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")  # the cursor is visible again


@pytest.mark.parametrize("arguments", [["export", "-o", "x.csv", "--server"], ["status", "--watch"]])
def test_sigterm_restores_the_terminal_and_is_one_sentence(folder: Path, arguments: list[str]) -> None:
    with serving_slowly(folder) as url:
        address = url if "--server" in arguments else f"{url}/exports/{uuid4()}"
        code, said = in_terminal(folder, [*arguments, address], b"of about 2", signal.SIGTERM)
    assert code == 143
    assert said.count("streamer: terminated") == 1
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")


def in_terminal(folder: Path, arguments: Sequence[str], awaited: bytes, number: signal.Signals) -> tuple[int, str]:
    """Returns the exit status and the output of a command that gets a signal once it has said `awaited`."""
    command = [str(STREAMER), *arguments]
    child, terminal = pty.fork()
    if not child:
        os.chdir(folder)
        os.execve(command[0], command, {**environment(folder), "TERM": "xterm", "COLUMNS": "80", "LINES": "24"})
    said = b""
    for end in (awaited, b""):
        while not end or end not in said:
            try:
                said += os.read(terminal, 4096)
            except OSError:
                break
        if end:
            os.kill(child, number)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.decode()
