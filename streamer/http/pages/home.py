"""`/`: what this server is. A person gets HTML, with datasets and exports; a program gets JSON, with links.

The page needs no database: if the list of exports cannot be read in time, the page says so, with status 200, because
all else on it is right, and completed exports can be downloaded meanwhile.
"""

import asyncio
from collections.abc import Iterable, Sequence
from html import escape
from urllib.parse import quote, urlencode

from aiohttp import web

from streamer.errors import ClientError
from streamer.http.api.datasets import summary
from streamer.http.api.exports import Exports, json_response
from streamer.http.links import LINKS, Links
from streamer.http.pages.documentation import HTML, accepted
from streamer.http.pages.layout import html_page, security_headers
from streamer.protocol.accept import preferred
from streamer.schema import DatasetSummary, ExportStatus, ServerDescription, ServerLinks
from streamer.source.catalog.catalog import Catalog

JSON = "application/json"
MAX_DATASETS = 100
MAX_EXPORTS = 10
LIST_TIMEOUT = 3.0  # seconds: a person waits for this page
VARY = {"Vary": "Accept"}
DESCRIPTION = "Turns a PostgreSQL query into a CSV download that starts at once and can be resumed."
NAVIGATION = {"documentation": "docs", "API": "docs/api", "datasets as JSON": "datasets", "exports as JSON": "exports"}


class Home:
    def __init__(self, catalog: Catalog, exports: Exports, version: str) -> None:
        self._catalog = catalog
        self._exports = exports
        self._version = version

    async def show(self, request: web.Request) -> web.Response:
        """`GET /`. A client without a preference gets JSON."""
        if preferred(accepted(request), (JSON, HTML)) == JSON:
            return json_response(_description(request.app[LINKS], self._version), headers=VARY)
        headers = {"Cache-Control": "no-store", **VARY, **security_headers()}
        return web.Response(text=await self._page(request), headers=headers, content_type=HTML, charset="utf-8")

    async def _page(self, request: web.Request) -> str:
        names = list(self._catalog)
        shown = [summary(self._catalog[name], Links()) for name in names[:MAX_DATASETS]]
        parts = [
            f"<h1>streamer</h1><p>{DESCRIPTION}</p>",
            "<h2>Datasets</h2>",
            _datasets(shown, more=len(names) - len(shown)),
            "<h2>Latest exports</h2>",
            await self._latest(request),
            f"<p>streamer {escape(self._version)}</p>",
        ]
        return html_page(title="streamer", navigation=NAVIGATION, content="\n".join(parts))

    async def _latest(self, request: web.Request) -> str:
        try:
            async with asyncio.timeout(LIST_TIMEOUT):
                return _exports(await self._exports.newest(request, MAX_EXPORTS))
        except ClientError as error:
            return _note(f"The list of exports is not available at the moment: {error.sentence}.")
        except TimeoutError:
            return _note("The list of exports is not available at the moment: the database does not answer.")


def _description(links: Links, version: str) -> ServerDescription:
    return ServerDescription(
        name="streamer",
        version=version,
        links=ServerLinks(
            self_=links.to("/"),
            documentation=links.to("/docs"),
            datasets=links.to("/datasets"),
            exports=links.to("/exports"),
            health=links.to("/health"),
        ),
    )


def _datasets(shown: Sequence[DatasetSummary], *, more: int) -> str:
    if not shown:
        return "<p>There are none.</p>"
    rows = [(_dataset_name(each), escape(each.description or ""), _rows(each), _download(each)) for each in shown]
    rest = f'<p><a href="datasets">{more:,} more</a></p>' if more else ""
    return _table(("dataset", "description", "rows", "CSV"), rows) + rest


def _dataset_name(dataset: DatasetSummary) -> str:
    return _link(f"datasets/{quote(dataset.name, safe='')}", dataset.name)


def _rows(dataset: DatasetSummary) -> str:
    return "" if dataset.estimated_rows is None else f"about {dataset.estimated_rows:,}"


def _download(dataset: DatasetSummary) -> str:
    """A dataset with required filters has no export of all rows, so its example is linked."""
    if dataset.required_filters:
        needed = ", ".join(dataset.required_filters)
        return f"{_link(dataset.example.removeprefix('/'), 'example')} (needs a condition on {escape(needed)})"
    return _link(f"exports/csv?{urlencode({'dataset': dataset.name})}", "download")


def _exports(found: Sequence[ExportStatus]) -> str:
    if not found:
        return "<p>There are none yet.</p>"
    return _table(("export", "dataset", "status", "rows", "created", "CSV"), [_export(each) for each in found])


def _export(export: ExportStatus) -> tuple[str, ...]:
    dataset = export.dataset if isinstance(export.dataset, str) else ""
    created = export.created_at.text()[:16].replace("T", " ") + " UTC" if export.created_at else ""
    return (
        _link(f"exports/{export.export_id}/status", export.label or str(export.export_id)[:8]),
        escape(dataset),
        escape(export.status if export.removed_at is None else "removed"),
        f"{export.progress.processed_rows:,}",
        escape(created),
        _link(f"exports/{export.export_id}/download", "download") if _has_file(export) else "",
    )


def _has_file(export: ExportStatus) -> bool:
    return export.removed_at is None and export.status in {"pending", "processing", "completed"}


def _link(url: str, text: str) -> str:
    """Crawlers must not follow links that start exports."""
    return f'<a href="{escape(url)}" rel="nofollow">{escape(text)}</a>'


def _table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """The cells are HTML."""
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}\n</table>"


def _note(sentence: str) -> str:
    return f'<p class="note">{escape(sentence)}</p>'
