"""The pages that are made from the code, by their names."""

from collections.abc import Callable
from pathlib import Path

from tests.docs.api_page import api_page
from tests.docs.cli_page import cli_page
from tests.docs.errors_page import errors_page
from tests.docs.settings_page import settings_page

COMMAND = "python -m tests.docs"
FOLDER = Path(__file__).parents[2] / "streamer" / "docs"
CHUNKS: dict[str, Callable[[], str]] = {
    "api": api_page,
    "cli": cli_page,
    "errors": errors_page,
    "settings": settings_page,
}


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.md"
