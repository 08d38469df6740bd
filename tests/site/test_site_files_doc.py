"""The reference of site files names every key of the format."""

from __future__ import annotations

import re
from pathlib import Path

from failover_orch.site import site_file, site_file_fences, site_file_hyperv, site_file_libvirt

DOCS = Path(__file__).parents[2] / "docs"
DOC = (DOCS / "site-files.md").read_text(encoding="utf-8")
FENCING = (DOCS / "fencing.md").read_text(encoding="utf-8")


def test_every_key_of_the_format_is_in_the_reference() -> None:
    keys = {
        key
        for module in (site_file, site_file_fences, site_file_hyperv, site_file_libvirt)
        for name, value in vars(module).items()
        if re.fullmatch(r"[A-Z]+_KEYS", name)
        for key in value
    }
    assert len(keys) > 50
    assert {key for key in keys if not re.search(rf"`{key}`", DOC)} == set()


def test_the_fences_in_the_reference_are_without_mistakes(tmp_path: Path) -> None:
    (shown,) = re.findall(r"^```yaml\n(.*?)^```$", FENCING, re.DOTALL | re.MULTILINE)
    file = tmp_path / "site.yaml"
    file.write_text(f"site: dr\nhypervisor: {{kind: simulated, world: world.db}}\n{shown}", encoding="utf-8")
    for name in ("bmc.secret", "bmc-ca.crt"):
        (tmp_path / name).write_text("secret\n", encoding="utf-8")
        (tmp_path / name).chmod(0o600)
    assert [fence.node for fence in site_file.load_site_file(file).fences] == ["p1", "p2", "p3", "p4"]
