"""What a client probably meant by a name that does not exist.

Only the names that the caller passes are suggested: never those of hidden columns. The comparison takes time for each
pair of names, and a request may have any name in a relation of 1,600 columns. So only names of about the same length
that begin or end alike are compared.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from heapq import nlargest
from itertools import takewhile

from streamer.errors import shown
from streamer.source.dataset import Column

MAX_LENGTH = 100  # characters of a name that has suggestions
MAX_COMPARED = 20  # names
MAX_LISTED = 40  # names
MIN_SIMILARITY = 0.7  # of difflib.SequenceMatcher.ratio
COMPARISON = re.compile(r"\s*(>=|<=|<>|!=|==|=>|=<|>|<|=)\s*")
SUFFIX_OF = {
    ">=": "__gte",
    "=>": "__gte",
    ">": "__gt",
    "<=": "__lte",
    "=<": "__lte",
    "<": "__lt",
    "!=": "__ne",
    "<>": "__ne",
    "==": "",
}


def similar(name: str, names: Iterable[str]) -> str | None:
    """Returns the name that is most like `name`, in any case of its letters; None if there is none."""
    from difflib import get_close_matches  # noqa: PLC0415 - 200 kB, which a server without mistakes does not need

    if len(name) > MAX_LENGTH:
        return None
    wanted = name.lower()
    by_lower = {each.lower(): each for each in names if _may_be(each.lower(), wanted)}
    compared = nlargest(MAX_COMPARED, by_lower, key=lambda each: _alike(wanted, each))
    found = get_close_matches(wanted, compared, n=1, cutoff=MIN_SIMILARITY)
    return by_lower[found[0]] if found else None


def no_such(kind: str, name: str, names: Collection[str]) -> str:
    """Returns a sentence about a name of this kind that does not exist, with the one that was probably meant."""
    meant = similar(name, names)
    allowed = f"did you mean {meant}?" if meant else f"allowed are {listed(names)}"
    return f"there is no {kind} '{shown(name)}'; {allowed}"


def listed(names: Collection[str], max_names: int = MAX_LISTED) -> str:
    """Returns the names as a list in a sentence, and the number of the others."""
    first = ", ".join(list(names)[:max_names])
    return first + (f" and {len(names) - max_names} more" if len(names) > max_names else "")


def comparison(text: str, columns: Mapping[str, Column]) -> str | None:
    """Returns the parameter that was meant by a comparison such as `ltv>=500`; None for anything else."""
    found = COMPARISON.search(text)
    if not found or (column := text[: found.start()]) not in columns or found[1] not in SUFFIX_OF:
        return None
    return f"{column}{SUFFIX_OF[found[1]]}={shown(text[found.end() :].strip())}"


def _may_be(each: str, wanted: str) -> bool:
    """Whether the length is about the same, or the beginning of the name was given."""
    return abs(len(each) - len(wanted)) <= max(2, len(wanted) // 3) or (len(wanted) > 2 and each.startswith(wanted))


def _alike(one: str, other: str) -> int:
    """The number of characters with which both begin, and with which both end."""
    return _common_start(one, other) + _common_start(one[::-1], other[::-1])


def _common_start(one: str, other: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
