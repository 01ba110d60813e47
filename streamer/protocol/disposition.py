"""Content-Disposition: RFC 6266, the name that a download is saved under."""

import re
from functools import lru_cache
from urllib.parse import quote

UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f"*/:<>?\\|\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]')
PERCENT_ENCODED = re.compile(r"%(?=[0-9A-Fa-f]{2})")  # some browsers decode it (RFC 6266, appendix D)
LONGEST = 200  # bytes: file systems stop at 255, and browsers add a number
ATTR_CHAR = "!#$&+-.^_`|~"  # RFC 8187, 3.2.1, beside letters and digits


def safe_filename(name: str) -> str:
    """`name` without what a file system or a shell could take for something else: no folder, no dot file, no control.

    Empty if nothing is left.
    """
    cleaned = UNSAFE.sub("_", name).strip(" .")
    return cleaned.encode()[:LONGEST].decode(errors="ignore").strip(" .")


@lru_cache(maxsize=256)  # asked for again with every range of one export
def attachment(filename: str) -> str:
    """The field's value for a safe name: plain, and for a name outside ASCII in both forms (RFC 6266, appendix D)."""
    ascii_only = "".join(character if character.isascii() else "_" for character in filename)
    fallback = PERCENT_ENCODED.sub("_", ascii_only)
    plain = f'attachment; filename="{fallback}"'
    return plain if fallback == filename else f"{plain}; filename*=UTF-8''{quote(filename, safe=ATTR_CHAR)}"
