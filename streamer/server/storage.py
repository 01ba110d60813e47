"""The folder of spools and the threads that write them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

from streamer.config import Settings
from streamer.server.tuning import Tuning
from streamer.spool.directory import SpoolDirectory
from streamer.spool.writer import THREADS


@contextmanager
def spool_directory(settings: Settings, tuning: Tuning) -> Iterator[SpoolDirectory]:
    """Raises StartError if no spool can be written there."""
    with ThreadPoolExecutor(THREADS * (settings.max_concurrent_exports + settings.compressions), "spool") as writing:
        directory = SpoolDirectory(
            settings.export_storage_path,
            writing,
            max_bytes=settings.spool_max_bytes,
            reserve=settings.spool_disk_reserve,
            recount=tuning.recount,
            limits=tuning.write_limits,
        )
        with closing(directory):
            directory.prepare()
            yield directory
