"""Repr-Digest: RFC 9530, the digest of the whole representation, also in a response with a part of it."""

from base64 import b64encode
from functools import lru_cache


@lru_cache(maxsize=256)  # the same for every range of one export
def repr_digest(sha256: bytes) -> str:
    """Returns the field's value: a dictionary of one byte sequence (RFC 8941, 3.3.5)."""
    return f"sha-256=:{b64encode(sha256).decode()}:"
