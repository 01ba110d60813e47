"""The interface that reports the progress of a download, for example to a progress bar or a log."""

from streamer.client.status import ExportStatus


class ProgressListener:
    """Receives the progress of a download. A subclass overrides the methods that it needs; the others do nothing.

    The methods are called on the event loop, so they must not block.

    Example:
        import asyncio
        from streamer.client import Client, ProgressListener

        class Printing(ProgressListener):
            def received(self, count):
                print(count, "bytes")

        async def main():
            async with Client("http://127.0.0.1:8080", listener=Printing()) as client:
                export = await client.export(limit=10)
                await export.save("ten.csv")

        asyncio.run(main())
    """

    def status(self, status: ExportStatus) -> None:
        """The server has sent the status of the export."""

    def received(self, count: int) -> None:
        """The client has received `count` bytes, including those of earlier runs."""

    def waiting(self, reason: str, seconds: float) -> None:
        """An attempt has failed for this `reason`, a sentence. The next one begins in `seconds`."""

    def checking(self, count: int) -> None:
        """The client has hashed `count` bytes of an earlier run again."""

    def decoding(self, count: int) -> None:
        """All bytes of a compressed file have come; the client has decoded `count` bytes out of them."""
