"""streamer: a PostgreSQL query becomes an append-only file that many people read while it is still being written."""

__version__ = "0.1.0"
