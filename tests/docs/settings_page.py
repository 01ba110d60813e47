"""settings.md: from the descriptions in streamer/config.py."""

import re
from itertools import groupby

from streamer.config import SettingDescription, described_settings
from tests.docs.markdown import filled, table

NAME = re.compile(r"\b[A-Z]+(?:_[A-Z]+)+\b")


def settings_page() -> str:
    found = described_settings()
    essential = ", ".join(f"`{setting.name}`" for setting in found if setting.essential)
    return filled("settings", {"essential": essential, "settings": _groups(found)})


def _groups(found: list[SettingDescription]) -> str:
    ordered = sorted(found, key=lambda setting: [each.group for each in found].index(setting.group))
    return "\n\n".join(
        f"## {group!s}\n\n{table(('setting', 'default', 'meaning'), map(_row, settings))}"
        for group, settings in groupby(ordered, key=lambda setting: setting.group)
    )


def _row(setting: SettingDescription) -> tuple[str, str, str]:
    former = "".join(f" Formerly `{alias}`, which still works." for alias in setting.aliases)
    meaning = NAME.sub(r"`\g<0>`", setting.meaning.replace("*", r"\*"))
    return f"`{setting.name}`", f"`{setting.default}`" if setting.default else "", meaning + former
