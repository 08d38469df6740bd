"""The demo, as a newcomer runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from failover_orch.processes import recorded

pytestmark = pytest.mark.slow


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "failover_orch", "demo", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.timeout(300)
def test_the_demo_holds_what_it_expects_and_leaves_nothing_running(tmp_path: Path) -> None:
    ended = demo("--directory", str(tmp_path / "demo"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("│ held ") == 9
    assert "NOT HELD" not in ended.stdout
    left = [path for path in tmp_path.rglob("*.pid") if recorded(path, mark="") is not None]
    assert left == []


def test_a_topology_with_mistakes_starts_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("sites: [{name: a}]\nclusters: 3\n")
    ended = demo("--directory", str(tmp_path / "demo"), "--topology", str(broken))
    assert ended.returncode == 1
    assert "broken.yaml:line 2: clusters" in ended.stderr.replace("\n", "")
    assert not (tmp_path / "demo").exists()
