"""One database session: its connection, locks, snapshot, role and settings."""
