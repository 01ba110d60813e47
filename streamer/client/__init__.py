"""Downloads that never end as half a file: for programs what `streamer pull` is for people.

    from streamer.client import Client

    async with Client("http://127.0.0.1:8080") as client:
        export = await client.export(dataset="users", where={"country_code": "US"}, columns=["id", "email"])
        await export.save("us.csv")

    async for chunk in export.stream():     # the same without a file
        ...

Scripts and notebooks that do not await have `export_to` and `pull`. Every failure is a `StreamerError` with one
sentence; its class says of which kind it is. Nothing of the server is imported.
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
