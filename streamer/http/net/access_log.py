"""Logs one line for each request. aiohttp's own access logger costs more than serving a small range does.

A progress bar polls the status of its export several times a second, so these requests are logged at level DEBUG
unless they fail.
"""

import logging
import re

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

MAX_TARGET_SHOWN = 500  # characters of the request target
STATUS_PATH = re.compile(r".*/exports/[0-9A-Fa-f-]{36}(/status)?")


class AccessLog(AbstractAccessLogger):
    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Logs the client, the request and the status. `time` is in seconds.

        The size of a body is not known here: files are sent past aiohttp.
        """
        target = str(request.rel_url)[:MAX_TARGET_SHOWN]
        level = logging.DEBUG if _is_poll(request, response) else logging.INFO
        self.logger.log(level, "%s %s %s %d %.4f s", request.remote, request.method, target, response.status, time)

    @property
    def enabled(self) -> bool:
        return self.logger.isEnabledFor(logging.INFO)


def _is_poll(request: web.BaseRequest, response: web.StreamResponse) -> bool:
    """Whether this is a successful request for the status of an export."""
    return request.method == "GET" and response.status < 400 and STATUS_PATH.fullmatch(request.path) is not None
