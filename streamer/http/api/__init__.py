"""Resources as JSON: exports and datasets, and the parameters of requests."""
