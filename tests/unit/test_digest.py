"""Repr-Digest (RFC 9530) as a structured field (RFC 8941): the values of the RFC, and parsing them back."""

import re
from base64 import b64decode
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.protocol.digest import repr_digest


@pytest.mark.parametrize(
    ("content", "value"),
    [
        # RFC 9530, B.1 and B.2: with the line feed that its examples end with, and 3: without
        (b'{"hello": "world"}\n', "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"),
        (b'{"hello": "world"}', "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"),
        # FIPS 180-4, its examples
        (b"", "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"),
        (b"abc", "sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:"),
    ],
)
def test_digest_of_known_content_is_the_published_one(content: bytes, value: str) -> None:
    assert repr_digest(sha256(content).digest()) == value


@given(st.binary(min_size=32, max_size=32))
def test_any_digest_is_one_padded_byte_sequence_that_is_parsed_back(digest: bytes) -> None:
    found = re.fullmatch(r"sha-256=:([A-Za-z0-9+/]{43}=):", repr_digest(digest))
    assert found
    assert b64decode(found[1], validate=True) == digest
