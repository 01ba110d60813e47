"""The table of URLs and their handlers."""

from concurrent.futures import Executor
from dataclasses import dataclass

from aiohttp import web

from streamer.http.api.datasets import Datasets
from streamer.http.api.exports import Exports, json_response
from streamer.http.api.request_bodies import RequestBodies
from streamer.http.download.completed import CompletedDownloads
from streamer.http.download.compression import GzipStreams
from streamer.http.download.downloads import Downloads
from streamer.http.download.live import DownloadTimes, LiveDownloads
from streamer.http.links import LINKS, Links
from streamer.http.net.body_sender import READ_AHEAD
from streamer.http.net.download_slots import DownloadSlots
from streamer.http.net.large_responses import LARGE_RESPONSES, LargeResponses, limit_large_responses
from streamer.http.net.readiness import WRITE_READINESS, WriteReadiness, backpressure
from streamer.http.problems import problems
from streamer.jobs.admission import Admission
from streamer.jobs.completed import CompletedCache
from streamer.source.catalog.catalog import Catalog
from streamer.source.catalog.checking import ValueCheck

EXPORT = "/exports/{id:(?!csv$)[^{}/]+}"  # `csv` is no id, so that a wrong method at /exports/csv is 405 and not 404


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportServices:
    """What makes, finds and checks exports."""

    admission: Admission
    completed: CompletedCache
    catalog: Catalog
    values: ValueCheck
    bodies: RequestBodies
    ttl: float  # seconds that the file of a completed export is kept, at most
    abandon_after: float  # seconds after which a streamed export without a client is cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadServices:
    """What sends bodies, within limits."""

    slots: DownloadSlots
    gzip: GzipStreams
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
    app.add_routes(_routes(exports, Datasets(services.catalog), _downloads(exports, services, sending)))
    return app


def _downloads(exports: Exports, services: ExportServices, sending: DownloadServices) -> Downloads:
    completed = CompletedDownloads(services.completed, sending.gzip)
    live = LiveDownloads(services.admission, completed, sending.gzip, sending.times)
    return Downloads(
        services.admission,
        exports,
        live=live,
        completed=completed,
        slots=sending.slots,
        gzip=sending.gzip,
        abandon_after=services.abandon_after,
    )


def _routes(exports: Exports, datasets: Datasets, downloads: Downloads) -> list[web.RouteDef]:
    return [
        web.get("/health", _health),
        web.get("/datasets", datasets.list),
        web.get(r"/datasets/{name:[\s\S]+}", datasets.describe),
        web.post("/exports/csv", exports.create),
        web.get("/exports/csv", downloads.stream),
        web.get("/exports", exports.list),
        web.post("/exports", exports.create_job),
        web.get(EXPORT, exports.status),
        web.get(EXPORT + "/status", exports.status),
        web.get(EXPORT + "/download", downloads.download),
        web.delete(EXPORT, exports.delete),
        web.post(EXPORT + "/cancel", exports.cancel_job),
    ]


async def _health(request: web.Request) -> web.Response:
    """Answers whether the process is alive, without using the database or the disk."""
    return json_response({"status": "ok"})
