"""What the kernel tells of a process and its control groups, made up in a folder."""

from pathlib import Path


class Machine:
    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.top = folder / "cgroup"
        self.proc.mkdir()
        self.top.mkdir()

    def version_2(self, path: str, file: str, *, root: str = "/", **limits: str) -> None:
        """A group of version 2, and the text of `file` of each group by its name, `top` for that of the mount."""
        self._describe(f"0::{path}", f"{root} {self.top} rw - cgroup2 cgroup rw")
        for name, text in limits.items():
            self._write("" if name == "top" else name, file, text)

    def version_1(self, controllers: str, path: str, *, at: str, root: str = "/", **files: str) -> None:
        """A group of version 1 with these controllers, and the texts of files of the group `at`, by their names."""
        self._describe(
            f"5:pids:/\n3:{controllers}:{path}",
            f"/ {self.top}/pids rw - cgroup cgroup rw,pids\n"
            f"31 25 0:27 {root} {self.top} rw - cgroup cgroup rw,{controllers}",
        )
        for name, text in files.items():
            self._write(at, name.replace("__", "."), text)

    def _describe(self, groups: str, mounts: str) -> None:
        (self.proc / "cgroup").write_text(groups + "\n")
        (self.proc / "mountinfo").write_text(f"30 25 0:26 {mounts}\n1 0 8:1 / / rw shared:1 - ext4 /dev/root rw\n")

    def _write(self, group: str, name: str, text: str) -> None:
        folder = self.top / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
