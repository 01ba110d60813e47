"""The bytes of all spools of a folder, and the shortage of space before more may be written."""

from collections.abc import Collection
from dataclasses import dataclass
from time import monotonic

RECOUNT = 10.0  # seconds after which all spools are counted again: other servers write to the folder, too


@dataclass(frozen=True, slots=True)
class Shortage:
    """The space to free before another byte may be written: bytes below the limit, bytes of the disk, and files."""

    limit: int = 0
    disk: int = 0
    files: int = 0

    def __bool__(self) -> bool:
        return self.bytes > 0 or self.files > 0

    @property
    def bytes(self) -> int:
        return max(self.limit, self.disk)

    def after(self, removed: Collection[int]) -> "Shortage":
        """The shortage that is left when files of these sizes are removed."""
        freed = sum(removed)
        return Shortage(max(0, self.limit - freed), max(0, self.disk - freed), max(0, self.files - len(removed)))


class UsedSpace:
    """The bytes of all spools of a folder: counted from time to time, and updated by the bytes of this process.

    `max_bytes` is the limit for all spools together, None without one; a count is stale after `recount` seconds.
    """

    def __init__(self, max_bytes: int | None, recount: float) -> None:
        self.bytes = 0
        self.written = 0  # bytes that this process has written to spools since it started
        self.removed = 0  # bytes that this process has removed since it started
        self._max_bytes = max_bytes
        self._recount = recount
        self._counted_at: float | None = None

    @property
    def excess(self) -> int:
        """Bytes to free before another byte is within the limit."""
        return 0 if self._max_bytes is None else max(0, self.bytes + 1 - self._max_bytes)

    @property
    def is_stale(self) -> bool:
        """Whether the spools have to be counted again; without a limit the count is not needed."""
        if self._max_bytes is None:
            return False
        return self._counted_at is None or monotonic() - self._counted_at > self._recount

    def grow(self, size: int) -> None:
        """Adds bytes that were written; a negative size is that of removed files."""
        self.bytes = max(0, self.bytes + size)
        self.removed += max(0, -size)
        self.written += max(0, size)

    def set_counted(self, used: int, *, removed_before: int) -> None:
        """Takes the result of a count that began when `removed` was `removed_before`.

        The count may include files that were removed meanwhile. A figure that is too high would evict without need.
        """
        self.bytes = max(0, used - (self.removed - removed_before))
        self._counted_at = monotonic()
