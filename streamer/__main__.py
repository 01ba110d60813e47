"""The process of the command line. Ctrl-C has a handler before the imports, which take half a second."""

from streamer.commands.interrupts import interrupts


def main() -> None:
    interrupts.listen()
    from streamer.cli import main as verbs  # noqa: PLC0415 - see above

    try:
        verbs(prog_name="streamer")
    finally:
        interrupts.ignore()


if __name__ == "__main__":
    main()
