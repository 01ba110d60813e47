"""Cursors, which read the rows of a query as CSV."""
