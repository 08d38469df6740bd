"""Files made to harm whoever reads them: they are refused in a sentence, at once, whatever they would unfold to."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from failover_orch import topology
from failover_orch.errors import SiteFileError, TopologyError
from failover_orch.site import load_site_file

LAUGHS = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
FILES = {
    "a list of a hundred billion": f"{LAUGHS}sites: *a11\nsite: *a11\nagent: {{scripts: *a11}}\n",
    "a mapping of them": LAUGHS.replace("[lol", "[{x: lol}") + "sites: [*a11]\nhypervisor: *a11\n",
    "a list in itself": "sites: &s [*s]\nhypervisor: &h {kind: libvirt, nodes: [*h]}\n",
    "lists without end": "sites: " + "[" * 100_000,
    "mappings without end": "".join(f"{' ' * n}a:\n" for n in range(3_000)),
    "an object of Python's": "sites: !!python/object/apply:os.system ['touch owned']\n",
    "a module of Python's": "sites: !!python/module:antigravity\n",
    "a merged one": "base: &b {name: x}\nsites: [{<<: *b}]\n",
    "a number without end": "sites: " + "9" * 200_000,
    "a name without end": "x" * 200_000 + ": 1\n",
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_it_is_refused_at_once(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file.yaml"
    path.write_text(text)
    began = time.monotonic()
    with pytest.raises(TopologyError):
        topology.load(path)
    with pytest.raises(SiteFileError):
        load_site_file(path)
    assert time.monotonic() - began < 10
    assert [each.name for each in tmp_path.iterdir()] == ["file.yaml"]
