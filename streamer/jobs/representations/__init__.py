"""Compressed representations of exports: made once, by the first request, and followed by all."""
