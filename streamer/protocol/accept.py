"""Content negotiation by media type: RFC 9110, 12.5.1."""

import re
from collections.abc import Sequence

NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
QUOTED = r'"(?:[^"\\]|\\.)*"'
# 8.3.1: type, subtype and parameters. A member that is not of this form is ignored.
RANGE = re.compile(rf"({NAME})/({NAME})((?:[ \t]*;[ \t]*(?:{NAME}=(?:{NAME}|{QUOTED}))?)*)")
PARAMETER = re.compile(rf"({NAME})=({NAME}|{QUOTED})")
WEIGHT = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")  # 12.4.2
MEMBER = re.compile(rf"(?:[^,\"]|{QUOTED}|\")+")  # a comma between quotes belongs to the member
MAX_FIELD = 4096  # bytes: a longer field is cut, since no client lists so many types


def preferred(accept: str | None, offered: Sequence[str]) -> str:
    """Returns the offered media type with the largest weight; of several, the first one offered.

    The most specific range that matches a type decides its weight. If the client accepts none of the types, the first
    one is returned: a page that can be read is of more use than 406 (12.5.1 allows both).
    """
    if accept is None:
        return offered[0]
    ranges = _ranges(accept[:MAX_FIELD])
    return max(offered, key=lambda media_type: _weight(media_type, ranges))  # `max` returns the first of several


def _ranges(field: str) -> dict[tuple[str, str], float]:
    ranges: dict[tuple[str, str], float] = {}
    for member in MEMBER.findall(field):
        if (found := RANGE.fullmatch(member.strip(" \t"))) and (weight := _read_weight(found[3])) is not None:
            ranges.setdefault((found[1].lower(), found[2].lower()), weight)
    return ranges


def _read_weight(parameters: str) -> float | None:
    """Returns None for a range that matches no offered type: one with a weight or a parameter that is not known."""
    weight = 1.0
    for name, text in PARAMETER.findall(parameters):
        if name.lower() == "q":
            if not WEIGHT.fullmatch(text):
                return None
            weight = float(text)
        elif (name.lower(), text.strip('"').lower()) != ("charset", "utf-8"):
            return None
    return weight


def _weight(media_type: str, ranges: dict[tuple[str, str], float]) -> float:
    kind, _, subtype = media_type.partition("/")
    for found in ((kind, subtype), (kind, "*"), ("*", "*")):
        if found in ranges:
            return ranges[found]
    return 0.0
