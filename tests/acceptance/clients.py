"""Download clients as their users start them, each with its own way to resume, and what each made of a download.

A client works in the folder of its local file, which is named as the last part of the URL, and begins with whatever is
there. Its exit status is all that a script sees.
"""

import asyncio
import re
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from enum import Enum, auto
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from tests.polling import until

PIECE = 16 * 1024  # bytes
PATIENCE = 60.0  # seconds for a client to come to an end
THREADS = ThreadPoolExecutor(16)  # of their own: the server under test may be in this process


class Resumes(Enum):
    ALWAYS = auto()
    SEALED = auto()  # refuses to go on with a file while nobody knows the length
    NEVER = auto()


@dataclass(frozen=True)
class Outcome:
    exit_status: int
    said: str


class Client(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def resumes(self) -> Resumes: ...

    @property
    def missing(self) -> bool:
        """Whether it is not on this machine."""
        ...

    async def fetch(self, url: str, path: Path) -> Outcome:
        """Downloads, or goes on with what is in `path`."""
        ...


@dataclass(frozen=True)
class Program:
    """A client that is a program. `{name}` in an argument is the name of the local file."""

    name: str
    arguments: tuple[str, ...]
    resumes: Resumes = Resumes.ALWAYS

    @property
    def missing(self) -> bool:
        return shutil.which(self.arguments[0]) is None

    async def fetch(self, url: str, path: Path) -> Outcome:
        arguments = [argument.format(name=path.name) for argument in self.arguments]
        process = await asyncio.create_subprocess_exec(
            *arguments,
            url,
            cwd=path.parent,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(PATIENCE):
                said, _ = await process.communicate()
        except BaseException:
            process.kill()
            await process.communicate()
            raise
        assert process.returncode is not None
        return Outcome(process.returncode, f"{self.name} says: {said.decode(errors='replace')}")


@dataclass(frozen=True)
class LikeHttpie:
    """Sends what `http --download --continue` sends, and checks of a 206 that it begins where the file ends.

    HTTPie also takes the last position of a Content-Range for the length. This one believes more, and so is the harder
    test.
    """

    name: str = "like-httpie"
    resumes: Resumes = Resumes.ALWAYS
    missing: bool = field(default=False, init=False)

    async def fetch(self, url: str, path: Path) -> Outcome:
        with closing(HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)) as connection:
            work = asyncio.get_running_loop().run_in_executor(THREADS, self._fetch, connection, url, path)
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                connection.sock.shutdown(socket.SHUT_RDWR)
                await asyncio.wait({work})
                raise

    def _fetch(self, connection: HTTPConnection, url: str, path: Path) -> Outcome:
        present = size_of(path)
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={present}-"} if present else {})
        try:
            connection.request("GET", urlsplit(url)._replace(scheme="", netloc="").geturl(), headers=headers)
            return self._save(connection.getresponse(), path, present)
        except (HTTPException, OSError) as error:
            return Outcome(1, f"{self.name} says: {error!r}")

    def _save(self, answer: HTTPResponse, path: Path, present: int) -> Outcome:
        if answer.status not in {200, 206}:
            return Outcome(4, f"{self.name} says: {answer.status} {answer.read()!r}")
        begin = 0 if answer.status == 200 else _first_position(answer)
        if begin not in {0, present}:
            return Outcome(1, f"{self.name} says: {answer.headers['Content-Range']}, not from {present} on")
        with path.open("r+b" if path.exists() else "wb") as file:
            file.seek(begin)
            file.truncate()
            rest = answer.length  # None in chunks, which http.client counts by itself
            while rest != 0 and (piece := answer.read1(PIECE)):
                file.write(piece)
                file.flush()
                rest = None if rest is None else rest - len(piece)
        return Outcome(1 if rest else 0, f"{self.name} says: {rest} bytes are missing")


def _first_position(answer: HTTPResponse) -> int | None:
    found = re.match(r"bytes (\d+)-", answer.headers["Content-Range"])
    return int(found[1]) if found else None


def _curl(*arguments: str, name: str) -> Program:
    return Program(
        name,
        ("curl", "-q", "-sSN", "--noproxy", "*", "-C", "-", "-o", "{name}", *arguments),
    )


def _wget(*arguments: str, name: str) -> Program:
    return Program(
        name,
        ("wget", "--no-config", "--no-proxy", "-nv", "-c", "--tries=20", "--waitretry=0", *arguments),
    )


def _aria2c(*arguments: str, name: str, resumes: Resumes) -> Program:
    """Without renaming, by which it leaves a file that it cannot go on with, and downloads to another beside it."""
    quiet = "--console-log-level=warn", "--summary-interval=0", "--download-result=hide"
    direct = "--no-conf", "--all-proxy=", "--file-allocation=none", "--disk-cache=0", "--auto-file-renaming=false"
    return Program(
        name,
        ("aria2c", *quiet, *direct, "-c", "-x8", "-s8", "-k1M", "-m5", "-o", "{name}", *arguments),
        resumes=resumes,
    )


CURL = _curl("--fail", name="curl")
CURL_WITHOUT_FAIL = _curl(name="curl-without-fail")
WGET = _wget(name="wget")
ARIA2C = _aria2c(name="aria2c", resumes=Resumes.SEALED)
LIKE_HTTPIE = LikeHttpie()
CURL_GZIP = _curl("--fail", "--compressed", name="curl-gzip")
WGET_GZIP = _wget("--compression=auto", name="wget-gzip")
ARIA2C_GZIP = _aria2c("--http-accept-gzip=true", name="aria2c-gzip", resumes=Resumes.NEVER)
PLAIN: tuple[Client, ...] = (CURL, CURL_WITHOUT_FAIL, WGET, ARIA2C, LIKE_HTTPIE)
EVERY: tuple[Client, ...] = (CURL, WGET, ARIA2C, LIKE_HTTPIE, CURL_GZIP, WGET_GZIP, ARIA2C_GZIP)


def size_of(path: Path) -> int:
    """In bytes, of a file that may not be there yet."""
    return path.stat().st_size if path.exists() else 0


async def grown(path: Path, size: int = 1, client: "asyncio.Task[Outcome] | None" = None) -> None:
    """Waits for a local file to have so many bytes. Nobody but the file can tell; a client may not end before that."""

    async def there() -> bool:
        if size_of(path) >= size:
            return True
        assert client is None or not client.done(), client.result()
        return False

    await until(there, f"{path.name} has {size} bytes", within=PATIENCE)
