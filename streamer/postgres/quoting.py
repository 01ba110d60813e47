"""Quoting of identifiers in SQL."""


def quote_identifier(name: str) -> str:
    """Returns a delimited identifier (PostgreSQL documentation, 4.1.1)."""
    return '"' + name.replace('"', '""') + '"'


def quote_relation(schema: str, name: str) -> str:
    """Returns the qualified name of a relation."""
    return f"{quote_identifier(schema)}.{quote_identifier(name)}"
