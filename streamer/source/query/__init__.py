"""Composes SQL from an ExportSpec, and reads the plan of it."""
