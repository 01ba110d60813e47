"""Content-Disposition (RFC 6266): the name a download is saved under."""

from uuid import UUID


def attachment(export_id: UUID) -> str:
    """The field value for an export's CSV; a UUID needs no escaping."""
    return f'attachment; filename="export_{export_id}.csv"'
