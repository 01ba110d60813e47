"""The URLs of this server's resources, as clients reach them.

A proxy may serve this server below a path prefix and strip the prefix, and no field of a request tells this reliably.
With PUBLIC_URL every reference is absolute. Without it the fields Location and Content-Location are relative to the URL
of the request (RFC 9110, 10.2.2 and 8.7), which keeps a prefix. A link in JSON is then a path from the root: clients do
not resolve it against the URL of the request, but append it to the URL of the server.
"""

import posixpath
from uuid import UUID

from aiohttp import web

from streamer.schema import ExportLinks


class Links:
    """`public` is the URL of the server without a slash at its end; "" if it is unknown."""

    def __init__(self, public: str = "") -> None:
        self._public = public

    def to(self, path: str) -> str:
        """Returns the link to a path, for JSON."""
        return self._public + path

    def reference(self, path: str, *, request_path: str) -> str:
        """Returns the reference to a path, for a header field of the response to a request for `request_path`."""
        return self.to(path) if self._public else posixpath.relpath(path, posixpath.dirname(request_path))

    def of(self, export_id: UUID) -> ExportLinks:
        """Returns the links to an export."""
        return ExportLinks(self_=self.to(status_path(export_id)), download=self.to(download_path(export_id)))


def status_path(export_id: UUID) -> str:
    return f"/exports/{export_id}/status"


def download_path(export_id: UUID) -> str:
    return f"/exports/{export_id}/download"


LINKS = web.AppKey("links", Links)
