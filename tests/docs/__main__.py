"""Writes the generated pages: `python -m tests.docs`."""

from tests.docs.generated import CHUNKS, path_of


def main() -> None:
    for name, written in CHUNKS.items():
        path_of(name).write_text(written(), encoding="utf-8")


if __name__ == "__main__":
    main()
