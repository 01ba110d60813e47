"""`streamer` with the names of its threads in procfs, where Python writes them from 3.14 on: see cpu.py."""

import threading
from pathlib import Path

from streamer.cli import main

run = threading.Thread.run


def run_named(thread: threading.Thread) -> None:
    Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(thread.name)
    run(thread)


if __name__ == "__main__":
    threading.Thread.run = run_named  # type: ignore[method-assign,assignment]
    main(prog_name="streamer")
