"""Templates and tables in Markdown."""

from collections.abc import Iterable, Mapping
from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"


def filled(template: str, parts: Mapping[str, str]) -> str:
    """Returns the template `NAME.md` with its parts; each part must be in it."""
    text = (TEMPLATES / f"{template}.md").read_text(encoding="utf-8")
    for name, part in parts.items():
        mark = f"<!-- {name} -->"
        assert text.count(mark) == 1, f"{template}.md has no {mark}"
        text = text.replace(mark, part)
    assert "<!--" not in text
    return text


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    return "\n".join(_row(cells) for cells in (names, ["---"] * len(names), *rows))


def fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def _row(cells: Iterable[str]) -> str:
    escaped = " | ".join(cell.replace("|", r"\|") for cell in cells)
    return f"| {escaped} |"
