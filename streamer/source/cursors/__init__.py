"""The ways to read the rows of a query as CSV."""
