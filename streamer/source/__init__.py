"""Rows out of PostgreSQL. Knows nothing of files or HTTP."""
