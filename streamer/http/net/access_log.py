"""One line a request. aiohttp's own logger costs more than a small range does."""

import logging

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

MAX_TARGET_SHOWN = 500  # characters of a URL


class AccessLog(AbstractAccessLogger):
    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """`time` is in seconds; the bytes are those of a body in memory, for a file goes past Python."""
        target = str(request.rel_url)[:MAX_TARGET_SHOWN]
        self.logger.info("%s %s %s %d %.4f s", request.remote, request.method, target, response.status, time)

    @property
    def enabled(self) -> bool:
        return self.logger.isEnabledFor(logging.INFO)
