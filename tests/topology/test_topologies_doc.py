"""The reference of the format says what is so."""

from __future__ import annotations

import re
from pathlib import Path

from failover_orch.topology import infrastructure, ip_plans, load, machines, plan_actions, policies, recovery_plans

DOC = (Path(__file__).parents[2] / "docs" / "topologies.md").read_text(encoding="utf-8")
EXAMPLE = "\n".join(re.findall(r"^```yaml\n(.*?)^```$", DOC, re.DOTALL | re.MULTILINE))


def test_the_examples_are_one_file_without_mistakes_or_warnings(tmp_path: Path) -> None:
    file = tmp_path / "example.yaml"
    file.write_text(EXAMPLE, encoding="utf-8")
    topology = load(file)
    assert topology.warnings == ()
    assert [topology.failover_findings(vm) for vm in topology.vms] == [(), ()]
    assert [plan.plan_id for plan in topology.plans] == ["shop"]


def test_every_key_of_the_format_is_in_the_reference() -> None:
    keys = {
        key
        for module in (infrastructure, machines, ip_plans, recovery_plans, plan_actions, policies)
        for name, value in vars(module).items()
        if name.endswith("_KEYS")
        for key in value
    }
    assert len(keys) > 40
    missing = {key for key in keys if not re.search(rf"\b{key}\b", DOC)}
    assert missing <= {"memory_free_mib"}, "the reference shows the unit in `_gib` and says that `_mib` does as well"
