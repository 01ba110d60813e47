"""Sizes and intervals that no setting decides, as arguments: a test needs other values than production."""

from dataclasses import dataclass, field

from streamer.http.api.request_bodies import BODY_TIMEOUT
from streamer.http.download.live import DownloadTimes
from streamer.http.net.connection import ConnectionLimits
from streamer.http.net.listener import SPARE_CONNECTIONS
from streamer.jobs.times import JobTimes
from streamer.source.catalog.checking import CHECK_TIMEOUT
from streamer.source.cursors.blocks import BlockReading
from streamer.spool.space import RECOUNT
from streamer.spool.writer import WriteLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """`recount`, `body_timeout` and `check_timeout` are in seconds."""

    jobs: JobTimes = field(default_factory=JobTimes)
    downloads: DownloadTimes = field(default_factory=DownloadTimes)
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    reading: BlockReading = field(default_factory=BlockReading)
    write_limits: WriteLimits = field(default_factory=WriteLimits)
    recount: float = RECOUNT
    body_timeout: float = BODY_TIMEOUT
    check_timeout: float = CHECK_TIMEOUT
    spare_connections: int = SPARE_CONNECTIONS
