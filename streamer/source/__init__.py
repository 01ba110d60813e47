"""Reads datasets from PostgreSQL as CSV, without knowledge of files and HTTP."""
