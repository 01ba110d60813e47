"""What an export is in time: a row, a place in the queue, a run."""
