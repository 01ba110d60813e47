"""The client as a library: `streamer pull` and its neighbours for programs. A file is complete and verified, or absent.

    from streamer.client import Client

    async with Client("http://127.0.0.1:8080") as client:
        export = await client.export(dataset="users", where={"country_code": "US"}, columns=["id", "email"])
        await export.save("us.csv")

    async for chunk in export.stream():     # the same without a file
        ...

`export_to` and `pull` are blocking functions for scripts and notebooks. Every failure is a subclass of `StreamerError`
with one sentence. No module of the server is imported.
"""

from streamer.client.blocking import export_to, pull
from streamer.client.client import Client, Export
from streamer.client.errors import (
    ExportFailed,
    ExportGone,
    GaveUp,
    LocalFileError,
    Refused,
    Replaced,
    StreamerError,
    VerificationFailed,
)
from streamer.client.progress import ProgressListener
from streamer.client.retries import RetryPolicy
from streamer.client.saving import Saved
from streamer.client.status import ExportStatus
from streamer.schema import ExportProgress

__all__ = [
    "Client",
    "Export",
    "ExportFailed",
    "ExportGone",
    "ExportProgress",
    "ExportStatus",
    "GaveUp",
    "LocalFileError",
    "ProgressListener",
    "Refused",
    "Replaced",
    "RetryPolicy",
    "Saved",
    "StreamerError",
    "VerificationFailed",
    "export_to",
    "pull",
]
