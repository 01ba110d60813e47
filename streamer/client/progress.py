"""The interface that reports the progress of a download, for example to a progress bar or a log."""

from streamer.client.status import ExportStatus


class ProgressListener:
    """Ignores every event; a subclass overrides some methods. They are called on the event loop and must not block."""

    def status(self, status: ExportStatus) -> None:
        """The server has sent the status of the export."""

    def received(self, count: int) -> None:
        """The client has `count` bytes of the export, including those of earlier runs."""

    def waiting(self, reason: str, seconds: float) -> None:
        """An attempt has failed, and the next one begins in `seconds`."""

    def checking(self, count: int) -> None:
        """The client has hashed `count` bytes of an earlier run again."""
