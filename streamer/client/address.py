"""The address of an export: an id or any URL of the export, as users paste it, in one form."""

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit
from uuid import UUID

from streamer.client.errors import Refused
from streamer.coding import COMPRESSED, Coding
from streamer.errors import shown

EXPORT_PATH = re.compile(
    r"(?P<prefix>.*)/exports/(?P<id>[^/]+)(?:/(?:download(?P<suffix>\.csv\.gz|\.csv\.zst)?|status|events))?/?"
)
CODINGS = {coding.suffix: coding for coding in COMPRESSED}


@dataclass(frozen=True, slots=True)
class Address:
    """`server` is a URL without a slash at the end; `query` is the query of the download URL.

    `coding` is that of the compressed file that the URL names.
    """

    server: str
    export_id: UUID
    query: str = ""
    coding: Coding = Coding.IDENTITY

    @property
    def resource(self) -> str:
        return f"{self.server}/exports/{self.export_id}"

    @property
    def status(self) -> str:
        return f"{self.resource}/status"

    @property
    def download(self) -> str:
        return self.file(Coding.IDENTITY)

    def file(self, coding: Coding) -> str:
        """The URL of the download, or that of a compressed file."""
        suffix = "" if coding is Coding.IDENTITY else coding.suffix
        return f"{self.resource}/download{suffix}" + (f"?{self.query}" if self.query else "")


def server_url(text: str) -> str:
    """Returns the URL of a server without a slash at the end; http if it has no scheme. Raises Refused."""
    url = _with_scheme(text)
    parts = _split(url)
    if parts is None or parts.query or parts.fragment:
        raise Refused(f"{shown(text)!r} is not the address of a server, such as http://127.0.0.1:8080")
    return url.rstrip("/")


def address_of(target: str, server: str) -> Address:
    """Returns the address of `target`, which is an id at `server`, or a URL of an export. Raises Refused."""
    if export_id := _id(target):
        if not server:
            raise Refused(f"{export_id} is an id without a server; pass the URL of the export")
        return Address(server_url(server), export_id)
    parts = _split(_with_scheme(target))
    found = EXPORT_PATH.fullmatch(parts.path) if parts else None
    if parts and found and (export_id := _id(found["id"])):
        prefix = f"{parts.scheme}://{parts.netloc}{found['prefix']}"
        return Address(server_url(prefix), export_id, parts.query, CODINGS.get(found["suffix"], Coding.IDENTITY))
    raise Refused(
        f"{shown(target)!r} is neither the id nor the URL of an export, such as http://HOST/exports/ID/download"
    )


def _with_scheme(text: str) -> str:
    return text if "://" in text else f"http://{text}"


def _split(url: str) -> SplitResult | None:
    """Returns None for a text that is no URL of http or https with a host and, if it has a port, a valid one."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        return None
    return parts if usable and not re.search(r"\s", parts.netloc) else None


def _id(text: str) -> UUID | None:
    try:
        export_id = UUID(text)
    except ValueError:
        return None
    return export_id if str(export_id) == text.lower() else None
