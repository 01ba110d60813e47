"""Names in SQL."""


def quote_identifier(name: str) -> str:
    """A delimited identifier (PostgreSQL documentation, 4.1.1)."""
    return '"' + name.replace('"', '""') + '"'


def quote_relation(schema: str, name: str) -> str:
    return f"{quote_identifier(schema)}.{quote_identifier(name)}"
