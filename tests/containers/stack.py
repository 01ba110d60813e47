"""docker-compose.yml as its user starts it, under a project name and on a port of its own, seen from the host by curl.

The variables of the environment and the file .env of whoever runs the tests are kept from it.
"""

import asyncio
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests import polling
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
ROWS = int(os.environ.get("SEED_ROWS", "1000000"))  # of the seeded users
LONG = 900.0  # seconds for what may take as long as seeding and an export of 10,000,000 rows
OF_DOCKER = ("PATH", "HOME", "DOCKER_")  # beginnings of the names of variables
CURL = ("curl", "-qfsSN", "--noproxy", "*")
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def engine_answers() -> bool:
    try:
        subprocess.run(["docker", "compose", "version"], check=True, capture_output=True)
        return subprocess.run(["docker", "info"], check=False, capture_output=True).returncode == 0
    except (FileNotFoundError, subprocess.CalledProcessError):
        return False


def until(condition: Callable[[], bool], hope: str, *, within: float = LONG) -> None:
    """The bounded poll, for tests without an event loop."""
    asyncio.run(polling.until(condition, hope, within=within))


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Stack:
    """A project; `settings` is what its user would write into .env, or into the shell."""

    settings: Mapping[str, str]
    project: str = field(default_factory=lambda: f"streamer-test-{uuid4().hex[:8]}")
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def compose(self, *arguments: str, env_file: str = "/dev/null", check: bool = True) -> str:
        """What `docker compose` says."""
        ours = {name: value for name, value in os.environ.items() if name.startswith(OF_DOCKER)}
        done = subprocess.run(
            ["docker", "compose", "-p", self.project, "--env-file", env_file, *arguments],
            check=False,
            cwd=ROOT,
            env={**ours, "API_PORT": str(self.port), "SEED_ROWS": str(ROWS), **self.settings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def up(self, *services: str, env_file: str = "/dev/null") -> None:
        """Returns when they are healthy."""
        self.compose("up", "--build", "--detach", "--wait", *services, env_file=env_file)

    def psql(self, sql: str) -> str:
        return self.compose("exec", "-T", "db", "psql", "-U", "postgres", "-qtAc", sql).strip()

    def in_app(self, *command: str) -> str:
        return self.compose("exec", "-T", "app", *command)

    def container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).strip()

    def inspect(self, service: str) -> dict[str, Any]:
        command = ["docker", "inspect", self.container(service)]
        found: list[dict[str, Any]] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return found[0]

    def log(self, service: str) -> str:
        return self.compose("logs", "--no-log-prefix", service)

    def curl(self, path: str, *arguments: str) -> bytes:
        return subprocess.run([*CURL, *arguments, self.url + path], check=True, capture_output=True).stdout

    @contextmanager
    def following(self, export: str, target: Path, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
        """A curl that downloads; killed at the end if it still runs."""
        command = [*CURL, *arguments, "-o", str(target), f"{self.url}/exports/{export}/download"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as curl:
            try:
                yield curl
            finally:
                curl.kill()

    def digests(self, exports: Sequence[str]) -> list[str]:
        """The SHA-256 of each export, all of them downloaded at once, without a file."""
        script = 'set -o pipefail; "$@" | sha256sum'
        commands = [[*CURL, f"{self.url}/exports/{export}/download"] for export in exports]
        with ExitStack() as stack:
            running = [
                stack.enter_context(subprocess.Popen(["bash", "-c", script, "", *command], stdout=subprocess.PIPE))
                for command in commands
            ]
            said = [process.communicate(timeout=LONG)[0].decode().split()[0] for process in running]
        assert [process.returncode for process in running] == [0] * len(running)
        return said

    def download(self, export: str, target: Path, *arguments: str) -> str:
        """The SHA-256 of what curl has made of the file."""
        with self.following(export, target, *arguments) as curl:
            assert curl.wait(LONG) == 0
        return sha256_of(target)

    def start(self, query: str = "") -> str:
        """The id of a new export."""
        found = ID.search(self.curl(f"/exports/csv?{query}", "-X", "POST").decode())
        assert found
        return found[0]

    def status(self, export: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.curl(f"/exports/{export}/status"))
        return found

    def until(self, export: str, state: str) -> dict[str, Any]:
        until(lambda: self.status(export)["status"] == state, f"export {export} is {state}")
        return self.status(export)


@contextmanager
def stack(**settings: str) -> Iterator[Stack]:
    """A project without a container. Whatever it has made is removed at the end."""
    project = Stack(settings)
    try:
        yield project
    finally:
        project.compose("down", "--volumes", "--rmi", "local", "--timeout", "0")
