"""Sizes and intervals that no setting decides, as arguments: a test needs other values than production."""

from dataclasses import dataclass, field

from streamer.spool.space import RECOUNT
from streamer.spool.writer import WriteLimits

SPARE_CONNECTIONS = 140  # of clients that do not download, beside MAX_DOWNLOADS


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """`recount` is in seconds."""

    write_limits: WriteLimits = field(default_factory=WriteLimits)
    recount: float = RECOUNT
    spare_connections: int = SPARE_CONNECTIONS
