"""The append-only file with a published frontier. Knows nothing of databases or HTTP."""
