"""Exports from submission to removal: the table, admission, workers, recovery, the run of one export, retention."""
