"""`/docs` and `/docs/{name}`: the documentation as HTML, or as Markdown for those who prefer it.

HTML is rendered when it is first asked for, one page at a time, and kept: there are as many pages as files. Markdown is
read from its file each time.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256

from aiohttp import web

from streamer.docs import SUFFIX, Page, UnknownPage, pages, read_page
from streamer.errors import NotFound, shown
from streamer.http.pages.layout import html_page, security_headers
from streamer.http.pages.markdown import to_html
from streamer.protocol.accept import preferred
from streamer.protocol.conditions import Validators, Verdict, evaluate

HTML, MARKDOWN = "text/html", "text/markdown"
INDEX = ""  # the name of the list of pages


@dataclass(frozen=True, slots=True)
class Rendered:
    body: bytes
    etag: str


class Documentation:
    def __init__(self) -> None:
        self._html: dict[str, Rendered] = {}
        self._rendering = asyncio.Lock()

    async def index(self, request: web.Request) -> web.Response:
        """`GET /docs`: the list of pages."""
        return await self._respond(request, INDEX, _media_type(request), _index)

    async def page(self, request: web.Request) -> web.Response:
        """`GET /docs/{page}`, and `{page}.md` for Markdown whatever the client accepts. Raises NotFound."""
        text = request.match_info["page"]
        name = text.removesuffix(SUFFIX)
        media_type = _media_type(request) if text == name else MARKDOWN
        try:
            return await self._respond(request, name, media_type, partial(read_page, name))
        except UnknownPage as error:
            raise NotFound(f"there is no page '{shown(name)}'; {error}") from error

    async def _respond(
        self, request: web.Request, name: str, media_type: str, read: Callable[[], Page]
    ) -> web.Response:
        if media_type == MARKDOWN:
            return _response(request, await asyncio.to_thread(lambda: _rendered(read().text)), MARKDOWN)
        async with self._rendering:
            if name not in self._html:
                self._html[name] = await asyncio.to_thread(lambda: _rendered(_html(read())))
        return _response(request, self._html[name], HTML)


def _media_type(request: web.Request) -> str:
    return preferred(accepted(request), (HTML, MARKDOWN))


def accepted(request: web.Request) -> str | None:
    """Returns the field Accept. A field on several lines is one list (RFC 9110, 5.3)."""
    lines = request.headers.getall("Accept", None)
    return None if lines is None else ", ".join(lines)


def _index() -> Page:
    listed = "\n".join(f"- [{page.title}](docs/{page.name}{SUFFIX}): {page.summary}" for page in pages())
    return Page(
        name=INDEX, text=f"# Documentation of streamer\n\nEach page is also `streamer docs NAME`.\n\n{listed}\n"
    )


def _rendered(text: str) -> Rendered:
    body = text.encode()
    return Rendered(body, f'"{sha256(body).hexdigest()[:32]}"')


def _html(page: Page) -> str:
    above = {"streamer": "./"} if page.name == INDEX else {"streamer": "../", "documentation": "../docs"}
    return html_page(title=f"{page.title} - streamer", navigation=above, content=to_html(page.text))


def _response(request: web.Request, rendered: Rendered, media_type: str) -> web.Response:
    """`no-cache`: a copy is compared by its tag before it is used, because an upgrade of the server changes pages."""
    headers = {"ETag": rendered.etag, "Cache-Control": "no-cache", "Vary": "Accept", **security_headers()}
    tags = request.headers.getall("If-None-Match", None)
    fields = {} if tags is None else {"if-none-match": ", ".join(tags)}
    if evaluate(fields, Validators(rendered.etag, None), datetime.now(UTC)) is Verdict.NOT_MODIFIED:
        return web.Response(status=304, headers=headers)
    return web.Response(body=rendered.body, headers=headers, content_type=media_type, charset="utf-8")
