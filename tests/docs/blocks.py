"""The fenced blocks of README.md and of the documentation."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.docs.generated import FOLDER

README = Path(__file__).parents[2] / "README.md"
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block; `language` is empty if it has none. `line` is that of its fence."""

    file: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def read_blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    return [
        Block(path.name, text.count("\n", 0, found.start()) + 1, found[1], found[2]) for found in FENCE.finditer(text)
    ]


def all_blocks() -> list[Block]:
    return [block for path in [README, *sorted(FOLDER.glob("*.md"))] for block in read_blocks(path)]


def in_language(blocks: Iterable[Block], language: str) -> list[Block]:
    return [block for block in blocks if block.language == language]


def without_blocks(text: str) -> str:
    return FENCE.sub("", text)
