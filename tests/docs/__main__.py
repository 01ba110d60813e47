"""Writes the generated pages: `python -m tests.docs`."""

from tests.docs.generated import PAGES, path_of


def main() -> None:
    for name, written in PAGES.items():
        path_of(name).write_text(written(), encoding="utf-8")


if __name__ == "__main__":
    main()
