"""The client as a library: `streamer pull` and `streamer export` for programs.

A file of this client is complete and verified, or it does not exist. `export_to` and `pull` are blocking functions for
scripts and notebooks; `Client` is for asyncio:

    import asyncio
    from streamer.client import Client

    async def main():
        async with Client("http://127.0.0.1:8080") as client:
            export = await client.export(where={"id__lte": 1000}, columns=["id", "email"])
            await export.save("first.csv")
            async for chunk in export.stream():  # the same without a file
                print(len(chunk), "bytes")

    asyncio.run(main())

Every failure is a subclass of `StreamerError`, whose text is one sentence and whose `exit_status` is that of the
command line: `Refused` and `LocalFileError` 1, `ExportFailed` 3, `ExportGone` 4, `GaveUp` 5, `VerificationFailed` and
`Replaced` 6. No module of the server is imported.
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
from streamer.schema import ExportProgress, RepresentationStatus

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
    "RepresentationStatus",
    "RetryPolicy",
    "Saved",
    "StreamerError",
    "VerificationFailed",
    "export_to",
    "pull",
]
