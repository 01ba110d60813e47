"""The documentation for users: Markdown files beside this module.

`streamer docs` prints them, and the server shows them at /docs. Only the order of the pages stands here: the title of a
page is its first heading, and its summary is its first paragraph.
"""

from dataclasses import dataclass
from importlib.resources import files

NAMES = (
    "downloads",
    "datasets",
    "api",
    "cli",
    "errors",
    "settings",
    "operations",
    "troubleshooting",
    "how-it-works",
    "figures",
    "glossary",
)
SUFFIX = ".md"  # of the files, and of the links between them


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of the documentation; `text` is Markdown."""

    name: str
    text: str

    @property
    def title(self) -> str:
        return self.text.partition("\n")[0].removeprefix("# ")

    @property
    def summary(self) -> str:
        """One line."""
        return " ".join(self.text.split("\n\n", 2)[1].split())


class UnknownPage(Exception):
    """There is no page of this name. The text is a sentence, which suggests the nearest name."""


def pages() -> list[Page]:
    """Returns all pages in their order."""
    return [read_page(name) for name in NAMES]


def read_page(name: str) -> Page:
    """Raises UnknownPage."""
    if name not in NAMES:
        raise UnknownPage(_suggestion(name))
    return Page(name=name, text=files(__name__).joinpath(name + SUFFIX).read_text(encoding="utf-8"))


def _suggestion(name: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - a mistake is rare, and the server starts without it

    nearest = get_close_matches(name.lower()[:60], NAMES, n=1)
    return f"did you mean '{nearest[0]}'?" if nearest else f"the pages are {', '.join(NAMES)}"
