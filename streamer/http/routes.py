"""The table of routes: the URLs, what each is for, and its handler. The documentation is generated from it."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler

from streamer import __version__
from streamer.http.api.datasets import Datasets
from streamer.http.api.exports import Exports, json_response
from streamer.http.api.request_bodies import RequestBodies
from streamer.http.download.completed import CompletedDownloads
from streamer.http.download.compressed import CompressedDownloads
from streamer.http.download.downloads import Downloads
from streamer.http.download.live import DownloadTimes, LiveDownloads
from streamer.http.links import LINKS, Links
from streamer.http.net.body_sender import READ_AHEAD
from streamer.http.net.download_slots import DownloadSlots
from streamer.http.net.large_responses import LARGE_RESPONSES, LargeResponses, limit_large_responses
from streamer.http.net.readiness import WRITE_READINESS, WriteReadiness, backpressure
from streamer.http.pages.documentation import Documentation
from streamer.http.pages.home import Home
from streamer.http.problems import problems
from streamer.jobs.admission import Admission
from streamer.jobs.completed import CompletedCache
from streamer.jobs.representations.making import Representations
from streamer.schema import Health
from streamer.source.catalog.catalog import Catalog
from streamer.source.catalog.checking import ValueCheck


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportServices:
    """What makes, finds and checks exports."""

    admission: Admission
    completed: CompletedCache
    representations: Representations
    catalog: Catalog
    values: ValueCheck
    bodies: RequestBodies
    ttl: float  # seconds that the file of a completed export is kept, at most
    abandon_after: float  # seconds after which a streamed export without a client is cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadServices:
    """What sends bodies, within limits."""

    slots: DownloadSlots
    readiness: WriteReadiness
    read_ahead: Executor
    times: DownloadTimes


def application(services: ExportServices, sending: DownloadServices, links: Links) -> web.Application:
    app = web.Application(middlewares=[backpressure, problems, limit_large_responses])
    app[READ_AHEAD] = sending.read_ahead
    app[WRITE_READINESS] = sending.readiness
    app[LINKS] = links
    app[LARGE_RESPONSES] = LargeResponses()
    exports = Exports(services.admission, services.catalog, services.values, services.bodies, ttl=services.ttl)
    resources = Resources(
        home=Home(services.catalog, exports, __version__),
        documentation=Documentation(),
        datasets=Datasets(services.catalog),
        exports=exports,
        downloads=_downloads(exports, services, sending),
    )
    for route in ROUTES:
        for method in route.methods:
            app.router.add_route(method, route.pattern, route.handler(resources))
    return app


def _downloads(exports: Exports, services: ExportServices, sending: DownloadServices) -> Downloads:
    completed = CompletedDownloads(services.completed)
    live = LiveDownloads(services.admission, completed, sending.times)
    compressed = CompressedDownloads(
        services.representations, services.completed, live=live, completed=completed, times=sending.times
    )
    return Downloads(
        services.admission,
        exports,
        live=live,
        completed=completed,
        compressed=compressed,
        slots=sending.slots,
        abandon_after=services.abandon_after,
    )


async def _health(request: web.Request) -> web.Response:
    """Answers whether the process is alive, without using the database or the disk."""
    return json_response(Health())


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The objects whose methods handle requests."""

    home: Home
    documentation: Documentation
    datasets: Datasets
    exports: Exports
    downloads: Downloads


@dataclass(frozen=True, slots=True)
class Route:
    """`path` has its variables in braces; `handler` finds the handler. A route for GET serves HEAD, too."""

    method: str
    path: str
    summary: str  # one sentence, in Markdown
    handler: Callable[[Resources], Handler]

    @property
    def methods(self) -> tuple[str, ...]:
        return (self.method, "HEAD") if self.method == "GET" else (self.method,)

    @property
    def pattern(self) -> str:
        """The path as aiohttp matches it."""
        pattern = self.path
        for variable, expression in PATTERNS.items():
            pattern = pattern.replace(f"{{{variable}}}", f"{{{variable}:{expression}}}")
        return pattern


PATTERNS = {
    "id": "(?!csv$)[^{}/]+",  # `csv` is no id, so that a wrong method at /exports/csv is 405 and not 404
    "name": r"[\s\S]+",  # of a dataset, which may have any character in it
    "page": "[^{}]*",
}
ROUTES = (
    Route("GET", "/", "What this server is: HTML for a browser, JSON for a program.", lambda to: to.home.show),
    Route("GET", "/health", "200 while the process runs; does not check the database.", lambda to: _health),
    Route("GET", "/docs", "The list of the pages of this documentation.", lambda to: to.documentation.index),
    Route(
        "GET",
        "/docs/{page}",
        "One page as HTML; `/docs/{page}.md`, or `Accept: text/markdown`, gives Markdown.",
        lambda to: to.documentation.page,
    ),
    Route("GET", "/datasets", "What can be exported, without the columns.", lambda to: to.datasets.list),
    Route(
        "GET",
        "/datasets/{name}",
        "One dataset: its columns, their types and operators, estimated rows, and an example.",
        lambda to: to.datasets.describe,
    ),
    Route("POST", "/exports/csv", "Starts an export: 202 with its id and links.", lambda to: to.exports.create),
    Route(
        "GET",
        "/exports/csv",
        "Starts an export and streams it in the same response. `HEAD` starts nothing.",
        lambda to: to.downloads.stream,
    ),
    Route("GET", "/exports", "The list of exports, newest first, in pages.", lambda to: to.exports.list),
    Route(
        "POST",
        "/exports",
        "The same as `POST /exports/csv`, answered with a `jobId`.",
        lambda to: to.exports.create_job,
    ),
    Route("GET", "/exports/{id}", "The same as `GET /exports/{id}/status`.", lambda to: to.exports.status),
    Route("GET", "/exports/{id}/status", "Status, progress, times, length and SHA-256.", lambda to: to.exports.status),
    Route("GET", "/exports/{id}/download", "The CSV, also while it grows.", lambda to: to.downloads.download),
    Route(
        "GET",
        "/exports/{id}/download.csv.gz",
        "The CSV as a gzip file, also while it grows; it is resumed like any other file.",
        lambda to: to.downloads.gzip_file,
    ),
    Route(
        "GET",
        "/exports/{id}/download.csv.zst",
        "The same as a Zstandard file.",
        lambda to: to.downloads.zstd_file,
    ),
    Route(
        "DELETE",
        "/exports/{id}",
        "Cancels the export if it is running, and removes its file: 204.",
        lambda to: to.exports.delete,
    ),
    Route(
        "POST",
        "/exports/{id}/cancel",
        "Cancels the export if it is not finished; a finished one keeps its file.",
        lambda to: to.exports.cancel_job,
    ),
)
