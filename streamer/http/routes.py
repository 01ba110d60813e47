"""The URL table, at one glance."""

from concurrent.futures import Executor

from aiohttp import web

from streamer.http.api.datasets import Datasets
from streamer.http.api.exports import Exports, json_response
from streamer.http.download.compression import GzipStreams
from streamer.http.download.downloads import Downloads
from streamer.http.links import LINKS, Links
from streamer.http.net.answers import ANSWERS, Answers, counted
from streamer.http.net.body_sender import READ_AHEAD
from streamer.http.net.download_slots import DownloadSlots
from streamer.http.net.readiness import WRITE_READINESS, WriteReadiness, backpressure
from streamer.http.problems import problems
from streamer.jobs.admission import Admission
from streamer.jobs.completed import CompletedCache
from streamer.source.catalog.catalog import Catalog
from streamer.source.catalog.checking import ValueCheck

EXPORT = "/exports/{id:(?!csv$)[^{}/]+}"  # `csv` is no id, so that a wrong method at /exports/csv is 405 and not 404


def application(
    admission: Admission,
    catalog: Catalog,
    values: ValueCheck,
    *,
    sealed: CompletedCache,
    gzip: GzipStreams,
    read_ahead: Executor,
    places: DownloadSlots,
    room: WriteReadiness,
    links: Links,
    abandon_after: float,
    ttl: float,
) -> web.Application:
    exports = Exports(admission, catalog, values, ttl=ttl)
    datasets = Datasets(catalog)
    downloads = Downloads(admission, sealed, exports, gzip, places, abandon_after=abandon_after)
    app = web.Application(middlewares=[backpressure, problems, counted])
    app[READ_AHEAD] = read_ahead
    app[WRITE_READINESS] = room
    app[LINKS] = links
    app[ANSWERS] = Answers()
    app.add_routes(
        [
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
    )
    return app


async def _health(request: web.Request) -> web.Response:
    """For liveness: touches nothing."""
    return json_response({"status": "ok"})
