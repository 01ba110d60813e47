"""Behind an nginx that strips a prefix of the path: whatever a client is told leads back through nginx."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urljoin

import aiohttp
import pytest

from tests.acceptance.process import streamer
from tests.acceptance.test_nginx import BLOCK, needs_nginx, nginx
from tests.exporting import RemoteExport, create, sha256
from tests.gates import Gates, gated_csv
from tests.polling import PATIENCE
from tests.ports import free_ports

pytestmark = needs_nginx

PREFIX = "/exports-api"
STRIPPED = BLOCK.replace("location / {", f"location {PREFIX}/ {{").replace(
    "proxy_pass http://streamer;", "proxy_pass http://streamer/;"
)
WHOLE = sha256(gated_csv())


class Prefixed:
    """`url` is that of the server behind nginx; `public` says whether the server knows it."""

    def __init__(self, url: str, session: aiohttp.ClientSession, folder: Path, *, public: bool) -> None:
        self.url, self.session, self.folder, self.public = url, session, folder, public

    def link(self, link: str) -> str:
        """As a client follows it that knows the server by its URL."""
        assert link.startswith(self.url if self.public else "/exports/")
        return link if self.public else self.url + link


@pytest.fixture(params=[False, True], ids=["unknown", "public"])
async def prefixed(
    request: pytest.FixtureRequest, tmp_path: Path, database: str, gates: Gates, session: aiohttp.ClientSession
) -> AsyncIterator[Prefixed]:
    await gates.view("gated")
    ports = free_ports(2)
    url = f"http://127.0.0.1:{ports[0]}{PREFIX}"
    settings = {"DATABASE_URL": database, "API_PORT": "0", "DATASETS": "gated", "SHUTDOWN_TIMEOUT": "0"}
    if request.param:
        settings["PUBLIC_URL"] = url + "/"
    async with streamer("serve", folder=tmp_path, environment=settings) as process:
        direct = (await process.url()).removeprefix("http://")
        async with nginx(tmp_path / "nginx", direct, block=STRIPPED, ports=ports):
            yield Prefixed(url, session, tmp_path, public=request.param)


async def curled(*arguments: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        "curl", "-qfsS", "--noproxy", "*", *arguments, stdout=asyncio.subprocess.PIPE
    )
    answer, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 0
    return answer


@pytest.mark.parametrize("path", ["/exports/csv", "/exports"])
async def test_the_location_of_a_new_export_leads_to_its_status(prefixed: Prefixed, path: str) -> None:
    begun = prefixed.url + path
    told = await curled("-X", "POST", "-o", "/dev/null", "-w", "%header{location}", f"{begun}?dataset=gated") or b""
    if told.startswith(b"%"):  # curl before 7.84
        async with prefixed.session.post(begun, params={"dataset": "gated"}) as response:
            told = response.headers["Location"].encode()
    status = json.loads(await curled(urljoin(begun, told.decode())))
    assert status["dataset"] == "gated"
    assert (await curled(prefixed.link(status["links"]["self"])))[:1] == b"{"
    assert sha256(await curled(prefixed.link(status["links"]["download"]))) == WHOLE


async def test_the_content_location_of_a_streamed_export_leads_to_its_download(prefixed: Prefixed) -> None:
    begun = f"{prefixed.url}/exports/csv"
    async with prefixed.session.get(begun, params={"dataset": "gated"}) as response:
        assert sha256(await response.read()) == WHOLE
        kept = urljoin(begun, response.headers["Content-Location"])
    assert sha256(await curled(kept)) == WHOLE


async def test_datasets_and_problems_name_urls_that_exist(prefixed: Prefixed) -> None:
    async with prefixed.session.get(f"{prefixed.url}/datasets") as response:
        (dataset,) = (await response.json())["datasets"]
    base = "" if prefixed.public else prefixed.url
    assert dataset["name"] in (await curled(base + dataset["links"]["self"])).decode()
    assert (await curled(base + dataset["example"])).count(b"\n") == 11
    async with prefixed.session.get(f"{prefixed.url}/exports/nothing") as response:
        assert (await response.json())["instance"] == (prefixed.url if prefixed.public else "") + "/exports/nothing"


async def test_our_own_client_works_there(prefixed: Prefixed) -> None:
    target = prefixed.folder / "one.csv"
    arguments = ["--server", prefixed.url, "--dataset", "gated", "-o", str(target), "-q"]
    async with streamer("export", *arguments, folder=prefixed.folder) as process:
        assert await process.exit_code() == 0, process.stderr
    assert sha256(target.read_bytes()) == WHOLE
    export = await create(prefixed.session, prefixed.url, dataset="gated")
    for number, pasted in enumerate((export.download, export.resource, f"{export.resource}/status")):
        target = prefixed.folder / f"{number}.csv"
        async with streamer("pull", pasted, "-o", str(target), "-q", folder=prefixed.folder) as process:
            assert await process.exit_code() == 0, process.stderr
        assert sha256(target.read_bytes()) == WHOLE
    assert isinstance(export, RemoteExport)


async def test_links_of_pages_lead_back_through_nginx(prefixed: Prefixed) -> None:
    """From the entry page to the documentation and back, and to a dataset; they are relative in either case."""
    seen: set[str] = set()
    for path in ("/", "/docs", "/docs/cli"):
        url = prefixed.url + path
        html = (await curled("-H", "Accept: text/html", url)).decode()
        found = {urljoin(url, link).partition("#")[0] for link in re.findall('href="([^"]*)"', html)}
        seen |= {link for link in found if link.startswith("http://127.0.0.1:") and ":8080" not in link}
    assert {f"{prefixed.url}{path}" for path in ("/", "/docs", "/docs/settings", "/exports/csv?dataset=gated")} <= seen
    for link in seen:
        assert link.startswith(f"{prefixed.url}/")
        assert await curled("-I", link)
