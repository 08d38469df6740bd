"""The demo of the real VMs, as a newcomer runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from failover_orch.demo.vms.sites import NODES
from failover_orch.lab import Lab
from failover_orch.processes import recorded

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 and not os.environ.get("CI"), reason="a lab of libvirt nodes is for root to make"
    ),
]
EXPECTATIONS = 11


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the demo's files may go. The path is short: those of sockets may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="fo-") as directory:
        yield Path(directory) / "demo"


@contextmanager
def demo_vms(place: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "failover_orch", "demo-vms", "--directory", str(place)]
    # Whoever runs the tests in the background of a shell has it ignored, and the demo would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        signal.signal(signal.SIGINT, before)
        try:
            yield demo
        finally:
            if demo.poll() is None:
                demo.send_signal(signal.SIGINT)
                demo.communicate()


def left(place: Path) -> list[str]:
    """What runs, or is there, of a demo that has ended."""
    name = Lab(place / "lab", NODES).name
    namespaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split()
    pid_files = (*place.glob("*.pid"), *place.glob("kafka/*/pid"))
    processes = [str(path) for path in pid_files if recorded(path, mark="") is not None]
    return [*processes, *(each for each in namespaces if each.startswith(f"{name}-"))]


@pytest.mark.timeout(900)
def test_it_holds_what_it_expects_and_leaves_nothing_running(place: Path) -> None:
    with demo_vms(place) as demo:
        said, errors = demo.communicate()
    assert demo.returncode == 0, said + errors
    assert said.count("│ held ") == EXPECTATIONS
    assert "NOT HELD" not in said
    assert left(place) == []


def test_ctrl_c_leaves_nothing_running(place: Path) -> None:
    with demo_vms(place) as demo:
        deadline = time.monotonic() + 180
        while not (place / "worker.pid").exists():
            assert demo.poll() is None, demo.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert left(place)
        demo.send_signal(signal.SIGINT)
        said, errors = demo.communicate()
    assert demo.returncode != 0, said + errors
    assert left(place) == []
