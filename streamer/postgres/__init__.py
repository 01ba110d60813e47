"""What every part that talks to PostgreSQL shares: connection parameters, pools, quoting."""
