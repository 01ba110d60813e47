"""The rules of CSV as pure functions."""
