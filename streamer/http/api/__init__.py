"""Resources as JSON: exports, datasets, and the parameters that ask for them."""
