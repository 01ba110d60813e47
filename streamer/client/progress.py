"""Who wants to see how far a download is: a progress bar, a log."""

from streamer.client.status import ExportStatus


class ProgressListener:
    """Sees nothing; a subclass sees what it overrides. Called on the event loop, and must not wait."""

    def status(self, status: ExportStatus) -> None:
        """The server has said how far the export is."""

    def received(self, count: int) -> None:
        """So many bytes of the export are here, those of earlier runs included."""

    def waiting(self, reason: str, seconds: float) -> None:
        """A try has failed, and the next one comes in so many seconds."""

    def checking(self, count: int) -> None:
        """So many bytes that are here already are being read again, for their SHA-256."""
