"""Content-Disposition: RFC 6266, the name that a download is saved under."""

import re
from urllib.parse import quote

UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f"*/:<>?\\|\u202a-\u202e\u2066-\u2069\ud800-\udfff]')
LONGEST = 150  # characters: below the 255 bytes of a file name in nearly every writing system
ATTR_CHAR = "!#$&+-.^_`|~"  # RFC 8187, 3.2.1, beside letters and digits


def safe_filename(name: str) -> str:
    """`name` without what a file system or a shell could take for something else: no folder, no dot file, no control.

    Empty if nothing is left.
    """
    return UNSAFE.sub("_", name).strip(" .")[:LONGEST].strip(" .")


def attachment(filename: str) -> str:
    """The field's value for a safe name: plain, and for a name outside ASCII in both forms (RFC 6266, appendix D)."""
    fallback = "".join(character if character.isascii() else "_" for character in filename)
    plain = f'attachment; filename="{fallback}"'
    return plain if fallback == filename else f"{plain}; filename*=UTF-8''{quote(filename, safe=ATTR_CHAR)}"
