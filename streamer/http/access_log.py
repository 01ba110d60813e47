"""One line a request. aiohttp's own logger costs more than a small range does."""

import logging

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger


class AccessLog(AbstractAccessLogger):
    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """`time` is in seconds; the bytes are those of a body in memory, for a file goes past Python."""
        self.logger.info("%s %s %s %d %.4f s", request.remote, request.method, request.rel_url, response.status, time)

    @property
    def enabled(self) -> bool:
        return self.logger.isEnabledFor(logging.INFO)
