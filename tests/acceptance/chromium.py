"""Chromium without a window, driven by its DevTools protocol: it opens an address, and downloads what is a download."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

from tests.acceptance.process import killed

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LISTENING = re.compile(rb"DevTools listening on (ws://\S+)")
START = 60.0  # seconds
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run")


class Chromium:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse, folder: Path) -> None:
        self._socket = socket
        self._folder = folder
        self._ids = count(1)

    async def download(self, url: str) -> tuple[str, bytes]:
        """Returns the name and the content of a file, once Chromium says that it is complete. Fails if it breaks."""
        behavior = {"behavior": "allowAndName", "downloadPath": str(self._folder), "eventsEnabled": True}
        await self._send("Browser.setDownloadBehavior", behavior)
        await self._send("Target.createTarget", {"url": url})
        name = ""
        while True:
            message = await self._socket.receive_json()
            event = message.get("params", {})
            if message.get("method") == "Browser.downloadWillBegin":
                name = event["suggestedFilename"]
            if message.get("method") == "Browser.downloadProgress" and event["state"] != "inProgress":
                assert event["state"] == "completed", event
                return name, (self._folder / event["guid"]).read_bytes()

    async def _send(self, method: str, parameters: dict[str, Any]) -> None:
        await self._socket.send_json({"id": next(self._ids), "method": method, "params": parameters})


@asynccontextmanager
async def chromium(folder: Path) -> AsyncIterator[Chromium]:
    """A browser with a profile of its own, whose downloads are in `folder`."""
    assert PROGRAM
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        *OPTIONS,
        f"--user-data-dir={folder / 'profile'}",
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr
    try:
        async with asyncio.timeout(START):
            while not (found := LISTENING.search(line := await process.stderr.readline())):
                assert line, "Chromium has ended"
        reading = asyncio.create_task(process.stderr.read())  # or its pipe would be full
        async with aiohttp.ClientSession() as session, session.ws_connect(found[1].decode()) as socket:
            yield Chromium(socket, folder)
        reading.cancel()
    finally:
        await killed(process)
