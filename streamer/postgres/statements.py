"""SQL statements in files: sql/NAME.sql beside the modules of a package."""

import re
from functools import lru_cache
from importlib.resources import files

COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)


def read_sql(package: str, name: str, **parts: object) -> str:
    """Returns the statement of a file without its comment lines, with `parts` in the place of their {names}.

    Comments are left out because pg_stat_activity shows only the first 1,024 bytes of a statement. Raises KeyError for
    a part that is missing.
    """
    return _read(package, f"{name}.sql").format(**parts)


def read_all_sql(package: str, folder: str = "sql") -> dict[str, str]:
    """Returns the statements of all files in `folder`, by their names in alphabetical order, without comment lines."""
    names = sorted(path.name for path in files(package).joinpath(folder).iterdir())
    return {name.removesuffix(".sql"): _read(package, name, folder) for name in names if name.endswith(".sql")}


@lru_cache
def _read(package: str, name: str, folder: str = "sql") -> str:
    text = files(package).joinpath(folder, name).read_text(encoding="utf-8")
    return COMMENT.sub("", text).strip()
