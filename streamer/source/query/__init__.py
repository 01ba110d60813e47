"""From an ExportSpec to SQL, and what the planner says of it."""
