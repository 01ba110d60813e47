"""Content negotiation by coding: RFC 9110, 12.5.3, among identity, gzip and zstd."""

import re

from streamer.coding import COMPRESSED, Coding

# RFC 9110, 12.4.2: a weight is 0 to 1 with at most three digits. A member that is not of this form is ignored.
MEMBER = re.compile(
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:[ \t]*;[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?", re.IGNORECASE
)
ALIASES = {"x-gzip": "gzip"}  # RFC 9110, 8.4.1.3
UNLISTED_IDENTITY = 0.0001  # below the smallest weight that a field can express


def preferences(accept_encoding: str | None) -> tuple[tuple[Coding, ...], ...]:
    """Returns the codings that the client accepts, in groups, the preferred one first; empty if there are none (406).

    The client does not care which coding of a group it gets. Identity has a group of its own. A request without the
    field accepts any coding, and identity is preferred, since it needs no decoder. With equal weights the compressed
    codings are preferred. An identity that is not listed is acceptable as the last choice, unless `*` excludes it.
    """
    if accept_encoding is None:
        return ((Coding.IDENTITY,), COMPRESSED)
    weights = _weights(accept_encoding)
    groups: dict[tuple[float, bool], list[Coding]] = {}
    for coding in Coding:
        unlisted = UNLISTED_IDENTITY if coding is Coding.IDENTITY else 0.0
        if weight := weights.get(coding, weights.get("*", unlisted)):
            groups.setdefault((weight, coding in COMPRESSED), []).append(coding)
    return tuple(tuple(groups[rank]) for rank in sorted(groups, reverse=True))


def _weights(field: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for text in field.split(","):
        if found := MEMBER.fullmatch(text.strip(" \t")):
            name = found[1].lower()
            weights.setdefault(ALIASES.get(name, name), float(found[2] or 1))
    return weights
