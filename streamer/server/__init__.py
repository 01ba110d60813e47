"""The composition root: which parts are started in which order, and stopped in the reverse."""

from streamer.server.http import check_port
from streamer.server.serving import serve, serving

__all__ = ["check_port", "serve", "serving"]
