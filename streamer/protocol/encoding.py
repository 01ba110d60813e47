"""Content negotiation by coding: RFC 9110, 12.5.3, between identity and gzip."""

import re

from streamer.coding import Coding

# RFC 9110, 12.4.2: a weight is 0 to 1 with at most three digits. A member that is not of this form is ignored.
MEMBER = re.compile(
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:[ \t]*;[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?", re.IGNORECASE
)
ALIASES = {"x-gzip": "gzip"}  # RFC 9110, 8.4.1.3


def acceptable(accept_encoding: str | None) -> tuple[Coding, ...]:
    """Returns the codings that the client accepts, the preferred one first; empty if none is acceptable (406).

    A request without the field accepts any coding, and identity is preferred, since it needs no decoder. With equal
    weights gzip is preferred. An identity that is not listed is acceptable as the last choice, unless `*` excludes it.
    """
    if accept_encoding is None:
        return (Coding.IDENTITY, Coding.GZIP)
    weights = _weights(accept_encoding)
    gzip = weights.get("gzip", weights.get("*", 0.0))
    identity = weights.get("identity", weights.get("*"))
    if identity is None:
        identity = 0.0001  # below the smallest weight that a field can express
    ranked = sorted([(gzip, Coding.GZIP), (identity, Coding.IDENTITY)], key=lambda pair: -pair[0])
    return tuple(coding for weight, coding in ranked if weight > 0)


def _weights(field: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for text in field.split(","):
        if found := MEMBER.fullmatch(text.strip(" \t")):
            name = found[1].lower()
            weights.setdefault(ALIASES.get(name, name), float(found[2] or 1))
    return weights
