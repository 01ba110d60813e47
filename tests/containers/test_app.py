"""The server in its container: what the container is, and what can be done with it by curl from the host."""

import gzip
import subprocess
import time
from pathlib import Path

import pytest

from streamer.jobs.recovery import STOPPED
from tests.containers.conftest import SLOW_ROWS
from tests.containers.stack import LONG, ROWS, Stack, engine_answers, sha256_of, until

LIMIT = 150 * 1024 * 1024  # bytes
FOLLOWERS = 4  # of each of three exports
BROKEN = {18, 56}  # exit statuses of curl: a partial body, a reset connection
SLOWLY = ("--limit-rate", "2M")  # of a body that buffers on the way cannot hold

pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(2 * LONG),
    pytest.mark.skipif(not engine_answers(), reason="no docker engine with compose answers"),
]


def test_the_container_is_confined(running: Stack) -> None:
    host = running.inspect("app")["HostConfig"]
    assert (host["Memory"], host["MemorySwap"]) == (LIMIT, LIMIT)
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    status = running.in_app("cat", "/proc/1/status")
    assert "Uid:\t10001\t10001\t10001\t10001\n" in status
    assert "CapEff:\t0000000000000000\n" in status
    assert "CapBnd:\t0000000000000000\n" in status
    assert "NoNewPrivs:\t1\n" in status


def test_the_server_is_the_first_process_and_alone(running: Stack) -> None:
    assert running.in_app("cat", "/proc/1/cmdline").endswith("/streamer\0serve\0")
    until(lambda: processes(running) == 2, "only the server is left, and who asks", within=30)


def processes(running: Stack) -> int:
    return int(running.in_app("sh", "-c", "set -- /proc/[0-9]*; echo $#"))


def test_only_what_serves_is_installed(running: Stack) -> None:
    script = "import importlib.util as found; print([n for n in ('pip', 'pytest', 'rich') if found.find_spec(n)])"
    assert running.in_app("/opt/streamer/bin/python3", "-c", script) == "[]\n"
    assert running.in_app("sh", "-c", "command -v gcc cc make pip pip3 || true") == ""


def test_only_the_folder_of_spools_can_be_written(running: Stack) -> None:
    script = "for folder in / /tmp /opt/streamer /spool; do touch $folder/probe 2>/dev/null && echo $folder; done; true"
    assert running.in_app("sh", "-c", script) == "/spool\n"
    running.in_app("rm", "/spool/probe")


def test_the_service_is_healthy_by_its_own_check(running: Stack) -> None:
    state = running.inspect("app")["State"]
    assert state["Health"]["Status"] == "healthy"
    assert state["Health"]["FailingStreak"] == 0
    assert "GET /health 200" in running.log("app")


def test_start_follow_range_and_gzip_by_curl(running: Stack, tmp_path: Path) -> None:
    export = running.start("country_code=US,DE")
    whole = running.curl(f"/exports/{export}/download")
    status = running.until(export, "completed")
    (tmp_path / "users.csv").write_bytes(whole)
    assert sha256_of(tmp_path / "users.csv") == status["sha256"]
    assert status["progress"]["bytes"] == len(whole) > ROWS
    assert running.curl(f"/exports/{export}/download", "-r", "1000-1999") == whole[1000:2000]
    assert running.curl(f"/exports/{export}/download", "-r", "-77") == whole[-77:]
    packed = running.curl(f"/exports/{export}/download", "-H", "Accept-Encoding: gzip")
    assert len(packed) < len(whole) / 2
    assert gzip.decompress(packed) == whole


def test_all_users_are_exported(running: Stack, tmp_path: Path) -> None:
    export = running.start()
    digest = running.download(export, tmp_path / "users.csv")
    status = running.until(export, "completed")
    assert status["progress"]["processedRows"] == ROWS == int(running.psql("SELECT count(*) FROM users"))
    assert digest == status["sha256"]
    assert running.curl(f"/exports/{export}", "-X", "DELETE") == b""


def test_cancel_breaks_the_download(running: Stack, tmp_path: Path) -> None:
    export = running.start("dataset=slow")
    with running.following(export, tmp_path / "slow.csv") as curl:
        until(lambda: size_of(tmp_path / "slow.csv") > 0, "curl follows")
        running.curl(f"/exports/{export}", "-X", "DELETE")
        assert curl.wait(30) in BROKEN
    assert running.status(export)["status"] == "cancelled"
    assert running.in_app("sh", "-c", f"ls /spool | grep -c {export} || true") == "0\n"


def size_of(target: Path) -> int:
    return target.stat().st_size if target.exists() else 0


def test_three_exports_at_once_with_followers_fit(running: Stack) -> None:
    exports = [running.start() for _ in range(3)]
    followed = running.digests(exports * FOLLOWERS)
    assert followed == [running.until(export, "completed")["sha256"] for export in exports * FOLLOWERS]
    assert len(set(followed)) == 1
    assert_never_short_of_memory(running)
    for export in exports:
        running.curl(f"/exports/{export}", "-X", "DELETE")


def assert_never_short_of_memory(running: Stack) -> None:
    found = running.inspect("app")
    assert not found["State"]["OOMKilled"]
    assert found["RestartCount"] == 0
    killed = "cd /sys/fs/cgroup; cat memory.events memory/memory.oom_control 2>/dev/null | grep '^oom_kill '"
    assert running.in_app("sh", "-c", killed) == "oom_kill 0\n"


def test_a_restart_breaks_what_was_served_and_runs_the_rest_again(running: Stack, tmp_path: Path) -> None:
    done = running.start()
    whole = running.until(done, "completed")["sha256"]
    served, unserved = running.start("dataset=slow"), running.start("dataset=slow&columns=id,pause")
    until(lambda: running.status(unserved)["snapshotAt"] is not None, "the other one has begun")
    before = running.status(unserved)["snapshotAt"]
    with (
        running.following(served, tmp_path / "slow.csv") as live,
        running.following(done, tmp_path / "done.csv", *SLOWLY) as sealed,
    ):
        until(lambda: size_of(tmp_path / "slow.csv") > 0 < size_of(tmp_path / "done.csv"), "both curls follow")
        running.compose("restart", "app")
        assert {live.wait(30), sealed.wait(30)} <= BROKEN
    until(lambda: answers(running), "the server answers again", within=60)
    failed = running.status(served)
    assert (failed["status"], failed["error"]) == ("failed", STOPPED)
    assert running.download(done, tmp_path / "done.csv", "-C", "-") == whole
    again = running.until(unserved, "completed")
    assert again["snapshotAt"] > before
    assert again["progress"]["processedRows"] == SLOW_ROWS


def answers(running: Stack) -> bool:
    try:
        return running.curl("/health") == b'{"status":"ok"}'
    except subprocess.CalledProcessError:
        return False


def test_stop_ends_well_within_the_grace_and_what_was_begun_is_run_after_it(running: Stack) -> None:
    export = running.start("dataset=slow")
    running.until(export, "processing")
    begun = time.monotonic()
    running.compose("stop", "app")
    took = time.monotonic() - begun
    state = running.inspect("app")["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    assert took < 5 + 10, took  # SHUTDOWN_TIMEOUT, and what follows it
    running.up()
    assert running.until(export, "completed")["progress"]["processedRows"] == SLOW_ROWS


def test_data_and_completed_exports_survive_down_and_up(running: Stack, tmp_path: Path) -> None:
    export = running.start("country_code=JP")
    status = running.until(export, "completed")
    running.compose("down")
    running.up(env_file=".env.example")
    assert running.status(export)["sha256"] == status["sha256"]
    assert running.download(export, tmp_path / "users.csv") == status["sha256"]
    assert int(running.psql("SELECT count(*) FROM users")) == ROWS
    assert "Skipping initialization" in running.log("db")
