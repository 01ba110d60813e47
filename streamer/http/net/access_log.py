"""Logs one line for each request. aiohttp's own access logger costs more than serving a small range does."""

import logging

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

MAX_TARGET_SHOWN = 500  # characters of the request target


class AccessLog(AbstractAccessLogger):
    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Logs the client, the request and the status. `time` is in seconds.

        The size of a body is not known here: files are sent past aiohttp.
        """
        target = str(request.rel_url)[:MAX_TARGET_SHOWN]
        self.logger.info("%s %s %s %d %.4f s", request.remote, request.method, target, response.status, time)

    @property
    def enabled(self) -> bool:
        return self.logger.isEnabledFor(logging.INFO)
