"""The bill of materials names all that is shipped, and Kafka's jars with their hashes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supply_chain import __main__ as command
from supply_chain.locks import read_lock


def test_the_bill_names_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sbom.json"
    monkeypatch.setattr("sys.argv", ["supply_chain", "--bill", str(path)])
    assert command.main() == 0
    written = json.loads(path.read_text())
    assert (written["bomFormat"], written["metadata"]["component"]["name"]) == ("CycloneDX", "failover-orch")
    by_ref = {each["bom-ref"]: each for each in written["components"]}
    jars = {ref: each["hashes"][0]["content"] for ref, each in by_ref.items() if ref.endswith(".jar")}
    packages = {ref for ref in by_ref if not ref.endswith(".jar")}
    assert packages == {f"{entry.name}=={entry.version}" for entry in read_lock(command.SHIPPED)[0]}
    assert "".join(f"{sha256}  {ref}\n" for ref, sha256 in sorted(jars.items())) == "".join(
        sorted(command.JAR_LIST.read_text().splitlines(keepends=True), key=lambda line: line[66:])
    )
    unsaid = {each["name"] for each in by_ref.values() if not each.get("licenses")}
    assert unsaid == {entry.name for entry in read_lock(command.SHIPPED)[0] if not entry.applies}
