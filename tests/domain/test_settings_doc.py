"""The catalogue in `docs/settings.md` is the code's. Run this file as a script to write it anew."""

from __future__ import annotations

from pathlib import Path

from failover_orch.domain.replication_settings import SettingsScope
from failover_orch.domain.settings_catalogue import Setting, settings_of

PAGE = Path(__file__).parent.parent.parent / "docs" / "settings.md"
BEGIN, END = "<!-- settings: made by `python tests/domain/test_settings_doc.py` -->", "<!-- end of settings -->"
HEADINGS = {SettingsScope.CLUSTER: "### Of a cluster: of all its nodes", SettingsScope.VM: "### Of a VM"}


def catalogue() -> str:
    parts = []
    for scope, heading in HEADINGS.items():
        rows = ["| name | takes | default | Hyper-V calls it |", "| --- | --- | --- | --- |"]
        parts.append("\n".join([heading, "", *rows, *map(row, settings_of(scope))]))
    return "\n\n".join(parts)


def row(setting: Setting) -> str:
    default = f"`{setting.default_text}`" if setting.default_text else "none"
    cells = (f"`{setting.name}`", setting.takes, default, setting.known_as or "(the broker's own)")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def written() -> str:
    """The page with its catalogue as it has to be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n\n{catalogue()}\n\n{END}{rest.partition(END)[2]}"


def test_the_catalogue_is_not_stale() -> None:
    assert PAGE.read_text(encoding="utf-8") == written(), "run `python tests/domain/test_settings_doc.py`"


def test_every_setting_says_what_it_takes_and_what_it_is_without_being_set() -> None:
    text = catalogue()
    for scope in SettingsScope:
        for setting in settings_of(scope):
            assert setting.takes
            assert f"| `{setting.name}` | " in text


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
