"""The URLs of our own resources, as clients reach them.

A proxy may pass on the paths below a prefix and strip it, and nothing in a request says so that could be trusted. With
PUBLIC_URL every reference is absolute. Without it the fields Location and Content-Location are relative to the URL of
the request (RFC 9110, 10.2.2 and 8.7), so a prefix stays. In JSON a link stays a path from the root: clients read it
far from the request that it would be relative to, and put it behind the URL of the server.
"""

import posixpath
from uuid import UUID

from aiohttp import web

from streamer.schema import ExportLinks


class Links:
    """`public` is the URL of the server without a slash at its end; "" if it is not known."""

    def __init__(self, public: str = "") -> None:
        self._public = public

    def to(self, path: str) -> str:
        """For JSON."""
        return self._public + path

    def reference(self, path: str, *, request_path: str) -> str:
        """For a field of the answer to a request for `request_path`."""
        return self.to(path) if self._public else posixpath.relpath(path, posixpath.dirname(request_path))

    def of(self, export_id: UUID) -> ExportLinks:
        return ExportLinks(self_=self.to(status_path(export_id)), download=self.to(download_path(export_id)))


def status_path(export_id: UUID) -> str:
    return f"/exports/{export_id}/status"


def download_path(export_id: UUID) -> str:
    return f"/exports/{export_id}/download"


LINKS = web.AppKey("links", Links)
