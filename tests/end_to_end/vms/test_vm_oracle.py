"""The oracle sees what it is there for: a VM that runs on two nodes at once, and none where one of them is paused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from vms_hands import until
from vms_installation import DR, PRIMARY, Installation
from vms_oracle import Oracle

from failover_orch.demo.vms.virsh import command
from failover_orch.lab import LabNode

TWIN = "twin"
"""A machine without disks, which boots nothing."""
XML = f"<domain type='qemu'><name>{TWIN}</name><memory unit='MiB'>32</memory><os><type>hvm</type></os></domain>"


@pytest.fixture
def nodes(installation: Installation) -> Iterator[tuple[LabNode, LabNode]]:
    """A node of each site, on which nothing of this test is left."""
    installation.recover()
    both = (installation.node(PRIMARY), installation.node(DR))
    for node in both:
        # The test before may have cut its power.
        installation.lab.power_on(node.name)
        installation.lab.start_daemon(node.name)
    yield both
    for node in both:
        if TWIN in _virsh(node, "list", "--name").split():
            _virsh(node, "destroy", TWIN)


async def test_a_vm_that_runs_on_two_nodes_is_seen(installation: Installation, nodes: tuple[LabNode, LabNode]) -> None:
    here, there = nodes
    file = installation.directory / "twin.xml"
    file.write_text(XML)
    with Oracle(installation.lab) as oracle:
        began_s = time.monotonic()
        await asyncio.to_thread(_virsh, here, "create", str(file))
        await until("it runs on one node", lambda: oracle.runs_on(TWIN) == [here.name])
        await asyncio.to_thread(_virsh, there, "create", str(file), "--paused")
        looks = oracle.looks
        await until("it was looked at", lambda: oracle.looks > looks + 5)
        assert oracle.violations() == []
        assert [life.node for life in oracle.lives(TWIN, since_s=began_s)] == [here.name]
        await asyncio.to_thread(_virsh, there, "resume", TWIN)
        await until("it is seen on two nodes", lambda: bool(oracle.violations()))
        assert f"{TWIN} ran on {here.name} (pid" in oracle.violations()[0]
        assert len(oracle.lives(TWIN, since_s=began_s)) == 2
        await asyncio.to_thread(_virsh, here, "destroy", TWIN)
        await until("it runs on the other alone", lambda: oracle.runs_on(TWIN) == [there.name])


def _virsh(node: LabNode, *words: str) -> str:
    return command("virsh", "--quiet", "--connect", node.uri, *words)
