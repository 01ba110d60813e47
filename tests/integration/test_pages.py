"""The pages for people: `/` and the documentation, over real sockets."""

import asyncio
import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import aiohttp
import pytest

from streamer import __version__
from streamer.config import Names
from streamer.docs import NAMES, read_page
from tests.conftest import Serve, Server, connected
from tests.exporting import create, read_problem
from tests.proxy import proxied

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
HOSTILE = '<script>alert("1&2")</script>'


class Links(HTMLParser):
    """The links, the tags and the attributes of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.links += [value for name, value in attributes if name in {"href", "src"} and value]


async def read(session: aiohttp.ClientSession, url: str, **fields: str) -> tuple[aiohttp.ClientResponse, str]:
    async with session.get(url, headers=fields or BROWSER) as response:
        return response, await response.text()


def assert_harmless(response: aiohttp.ClientResponse, html: str) -> None:
    """No script, nothing from another host, and header fields that allow neither."""
    policy = response.headers["Content-Security-Policy"]
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-[A-Za-z0-9+/=]{44}'; base-uri 'none'; form-action 'none'; "
        r"frame-ancestors 'none'",
        policy,
    )
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    page = Links(html)
    assert page.tags.isdisjoint({"script", "iframe", "object", "embed", "img", "link", "form", "base"})
    assert not any(name.startswith("on") or name == "style" for name in page.attributes)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html


@pytest.mark.parametrize("name", NAMES)
async def test_page_of_the_documentation_is_harmless_html(
    server: Server, session: aiohttp.ClientSession, name: str
) -> None:
    response, html = await read(session, f"{server.url}/docs/{name}")
    assert response.status == 200
    assert_harmless(response, html)
    assert f"<title>{read_page(name).title} - streamer</title>" in html


async def test_every_link_of_the_documentation_leads_somewhere(server: Server, session: aiohttp.ClientSession) -> None:
    """Beginning at the entry page, and only through links that start no export."""
    seen, waiting = set(), [f"{server.url}/"]
    while waiting:
        url = waiting.pop()
        response, html = await read(session, url)
        assert response.status == 200, url
        seen.add(url)
        if response.content_type != "text/html":
            continue
        found = {urljoin(url, link).partition("#")[0] for link in Links(html).links}
        ours = {each for each in found if each.startswith(server.url) and "/exports/csv" not in each}
        waiting += ours - seen - set(waiting)
    assert {f"{server.url}/docs/{name}" for name in NAMES} < seen


@pytest.mark.parametrize("path", ["/docs/settings", "/docs"])
async def test_markdown_is_given_to_those_who_prefer_it(
    server: Server, session: aiohttp.ClientSession, path: str
) -> None:
    response, text = await read(session, server.url + path, Accept="text/markdown, text/html;q=0.5")
    assert response.headers["Content-Type"] == "text/markdown; charset=utf-8"
    assert text.startswith("# ")
    assert response.headers["Vary"] == "Accept"


async def test_path_with_the_suffix_is_markdown_whatever_is_accepted(
    server: Server, session: aiohttp.ClientSession
) -> None:
    response, text = await read(session, f"{server.url}/docs/settings.md")
    assert (response.content_type, text) == ("text/markdown", read_page("settings").text)


@pytest.mark.parametrize("path", ["/docs", "/docs/api", "/docs/api.md"])
async def test_known_copy_is_answered_with_304(server: Server, session: aiohttp.ClientSession, path: str) -> None:
    first, _ = await read(session, server.url + path)
    again, body = await read(session, server.url + path, **{**BROWSER, "If-None-Match": first.headers["ETag"]})
    assert (again.status, body, again.headers["ETag"]) == (304, "", first.headers["ETag"])
    assert again.headers["Cache-Control"] == first.headers["Cache-Control"] == "no-cache"
    other, _ = await read(session, server.url + path, **{**BROWSER, "If-None-Match": '"other"'})
    assert other.status == 200


async def test_html_and_markdown_have_tags_of_their_own(server: Server, session: aiohttp.ClientSession) -> None:
    html, _ = await read(session, f"{server.url}/docs/api")
    markdown, _ = await read(session, f"{server.url}/docs/api.md")
    assert html.headers["ETag"] != markdown.headers["ETag"]


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/settings", "/docs/settings.md"])
async def test_head_has_the_fields_of_get_and_no_body(
    server: Server, session: aiohttp.ClientSession, path: str
) -> None:
    got, _ = await read(session, server.url + path)
    async with session.head(server.url + path, headers=BROWSER) as response:
        assert (response.status, await response.read()) == (200, b"")
        assert {**response.headers, "Date": ""} == {**got.headers, "Date": ""}


@pytest.mark.parametrize(
    ("path", "suggestion"),
    [
        ("/docs/seting", "'settings'"),
        ("/docs/seting.md", "'settings'"),
        ("/docs/", "the pages are downloads"),
        ("/docs/..%2Ferrors", "'errors'"),
        ("/docs/a%FFb", "the pages are downloads"),
    ],
)
async def test_unknown_page_is_404_with_the_nearest_name(
    server: Server, session: aiohttp.ClientSession, path: str, suggestion: str
) -> None:
    async with session.get(f"{server.url}{path}") as response:
        assert response.status == 404
        assert suggestion in (await response.json())["detail"]


async def test_many_first_readers_get_the_same_page(server: Server, session: aiohttp.ClientSession) -> None:
    found = await asyncio.gather(*(read(session, f"{server.url}/docs/operations") for _ in range(20)))
    assert len({html for _, html in found}) == 1


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, text/html;q=0.9", "image/png"])
async def test_program_gets_json_with_links(server: Server, session: aiohttp.ClientSession, accept: str) -> None:
    async with session.get(f"{server.url}/", headers={"Accept": accept}) as response:
        description: dict[str, Any] = await response.json()
        assert response.headers["Content-Type"] == "application/json; charset=utf-8"
        assert (response.headers["Vary"], response.headers["Cache-Control"]) == ("Accept", "no-store")
    assert (description["name"], description["version"]) == ("streamer", __version__)
    for link in description["links"].values():
        async with session.get(server.url + link) as response:
            assert response.status == 200, link


async def test_links_for_programs_are_absolute_if_the_public_url_is_known(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    server = await serve(public_url="https://example.org/exports-api")
    async with session.get(f"{server.url}/") as response:
        assert (await response.json())["links"]["documentation"] == "https://example.org/exports-api/docs"


async def test_person_sees_datasets_and_exports(server: Server, session: aiohttp.ClientSession) -> None:
    export = await create(session, server.url, id__lte="10", label=HOSTILE)
    await export.until("completed")
    response, html = await read(session, f"{server.url}/")
    assert_harmless(response, html)
    assert (response.headers["Vary"], response.headers["Cache-Control"]) == ("Accept", "no-store")
    assert {"exports/csv?dataset=users", "datasets/users", "docs", "docs/api"} <= set(Links(html).links)
    assert {f"exports/{export.id}/status", f"exports/{export.id}/download"} <= set(Links(html).links)
    assert "about 200,000" in html
    assert "<td>completed</td><td>10</td>" in html
    assert "&lt;script&gt;alert(&quot;1&amp;2&quot;)&lt;/script&gt;" in html


async def test_export_without_a_file_has_no_download_link(server: Server, session: aiohttp.ClientSession) -> None:
    export = await create(session, server.url, id__lte="10")
    await export.until("completed")
    async with session.delete(export.resource) as response:
        assert response.status == 204
    _, html = await read(session, f"{server.url}/")
    assert f"exports/{export.id}/download" not in Links(html).links
    assert "<td>removed</td>" in html


async def test_hostile_name_of_a_dataset_is_escaped_and_its_links_work(
    serve: Serve, database: str, session: aiohttp.ClientSession
) -> None:
    name = '"<script>alert(1)</script> &""x"""'
    async with connected(database) as connection:
        await connection.execute(f"CREATE TABLE {name} AS SELECT 1 AS id")
    server = await serve(source_database_url=database, datasets=Names((name,)))
    response, html = await read(session, f"{server.url}/")
    assert_harmless(response, html)
    (download,) = (link for link in Links(html).links if link.startswith("exports/csv"))
    assert parse_qs(urlsplit(download).query)["dataset"] == [name]
    assert (await read(session, urljoin(f"{server.url}/", download)))[1] == "id\n1\n"
    (described,) = (link for link in Links(html).links if link.startswith("datasets/"))
    assert (await read(session, urljoin(f"{server.url}/", described)))[0].status == 200


async def test_page_with_very_many_datasets_shows_a_hundred_and_links_to_the_others(
    serve: Serve, database: str, session: aiohttp.ClientSession
) -> None:
    async with connected(database) as connection:
        await connection.execute("CREATE SCHEMA many")
        await connection.execute("".join(f"CREATE TABLE many.t{number} (id int);" for number in range(130)))
    server = await serve(source_database_url=database, datasets=Names(("many.*",)))
    response, html = await read(session, f"{server.url}/")
    assert_harmless(response, html)
    assert sum(link.startswith("exports/csv?") for link in Links(html).links) == 100
    assert '<a href="datasets">30 more</a>' in html


async def test_dataset_with_required_filters_has_an_example_in_place_of_a_download(
    serve: Serve, session: aiohttp.ClientSession, tmp_path: Any
) -> None:
    file = tmp_path / "datasets.toml"
    file.write_text('[datasets.users]\nrequired = ["id"]\ndescription = "<b>All</b> users"\n')
    server = await serve(datasets_file=file)
    _, html = await read(session, f"{server.url}/")
    assert "needs a condition on id" in html
    assert "&lt;b&gt;All&lt;/b&gt; users" in html
    (example,) = (link for link in Links(html).links if link.startswith("exports/csv"))
    assert (await read(session, urljoin(f"{server.url}/", example)))[0].status == 200


async def test_page_without_a_database_says_so_and_shows_the_rest(
    serve: Serve, database: str, session: aiohttp.ClientSession
) -> None:
    async with proxied(database) as proxy:
        server = await serve(database_url=proxy.url)
        await proxy.close()
        response, html = await read(session, f"{server.url}/")
        assert response.status == 200
        assert_harmless(response, html)
        assert "The list of exports is not available at the moment" in html
        assert "exports/csv?dataset=users" in Links(html).links
        async with session.get(f"{server.url}/") as described:
            assert described.status == 200
        async with session.get(f"{server.url}/exports") as listed:
            await read_problem(listed, 503)


async def test_page_does_not_wait_long_for_a_locked_table(
    serve: Serve, database: str, session: aiohttp.ClientSession
) -> None:
    server = await serve()
    async with connected(database) as connection, connection.transaction():
        await connection.execute("LOCK TABLE streamer.exports IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(8):
            response, html = await read(session, f"{server.url}/")
    assert response.status == 200
    assert "the database does not answer" in html
