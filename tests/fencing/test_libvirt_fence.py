"""Turning off the one VM that is to be overtaken, by way of a real libvirt daemon. Needs root, for the lab."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt
import pytest
from machines import P1, PASSWORD, password_file

from failover_orch.errors import FenceFailed, FenceRefused
from failover_orch.fencing import (
    FenceAgent,
    Fences,
    IpmiFence,
    LibvirtFence,
    Pace,
    PowerReading,
    fence_agent,
    libvirt_domain,
)
from failover_orch.hypervisors.libvirt import record
from failover_orch.lab import IpmiBmc, Lab

PACE = Pace(deadline_s=20, again_s=1, poll_s=0.1)
HASTY = Pace(deadline_s=2, again_s=1, poll_s=0.1)
ERP = replace(P1, vm="erp-db")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="fence-") as directory:
        lab = Lab(Path(directory) / "lab", {"p1": "primary"})
        lab.start()
        try:
            yield lab
        finally:
            lab.stop()


@pytest.fixture
def domain(lab: Lab) -> Iterator[Any]:
    """A domain that is on, though no guest runs in it, and would be started with the daemon."""
    xml = f"""
    <domain type='qemu'>
      <name>erp on p1</name>
      <uuid>{uuid.uuid4()}</uuid>
      <metadata><vm xmlns='{record.METADATA_URI}' id='erp-db'/></metadata>
      <memory unit='MiB'>16</memory>
      <os><type arch='x86_64' machine='pc'>hvm</type></os>
      <devices><memballoon model='none'/></devices>
    </domain>"""
    connection = libvirt.open(lab.node("p1").uri)
    domain = connection.defineXML(xml)
    domain.setAutostart(1)
    domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    connection.close()
    yield domain.UUIDString()
    lab.resume_daemon("p1")
    lab.start_daemon("p1")
    connection = libvirt.open(lab.node("p1").uri)
    left = connection.lookupByUUIDString(domain.UUIDString())
    if left.isActive():
        left.destroy()
    left.undefine()
    connection.close()


@pytest.fixture
def settings(lab: Lab) -> LibvirtFence:
    return LibvirtFence("primary", "p1", lab.node("p1").uri, PACE)


@pytest.fixture
def agent(settings: LibvirtFence) -> FenceAgent:
    return fence_agent(settings)


def autostart(lab: Lab, domain: str) -> int:
    connection = libvirt.open(lab.node("p1").uri)
    try:
        return int(connection.lookupByUUIDString(domain).autostart())
    finally:
        connection.close()


async def test_a_vm_is_turned_off_and_stays_off(
    lab: Lab, agent: FenceAgent, settings: LibvirtFence, domain: str
) -> None:
    assert await agent.power(ERP) is PowerReading.ON
    assert (await agent.cut(ERP)).startswith(
        f"power of primary/p1/erp-db read OFF from libvirt at {settings.uri} at 20"
    )
    assert (await agent.power(ERP), autostart(lab, domain)) == (PowerReading.OFF, 0)
    assert "read OFF" in await Fences.of([settings]).cut(ERP), "off already, and cut again"


async def test_a_vm_is_found_by_its_id_or_uuid_or_name(agent: FenceAgent, domain: str) -> None:
    for vm in ("erp-db", domain, "erp on p1"):
        assert await agent.power(replace(P1, vm=vm)) is PowerReading.ON
    assert await agent.power(replace(P1, vm="erp")) is PowerReading.UNKNOWN


async def test_a_vm_that_is_not_there_may_be_elsewhere(settings: LibvirtFence, domain: str) -> None:
    with pytest.raises(FenceFailed, match=r"primary/p1/web was not read as OFF within 2 s: .* has no domain 'web'$"):
        await fence_agent(replace(settings, pace=HASTY)).cut(replace(P1, vm="web"))


async def test_a_node_as_a_whole_is_not_for_libvirt(agent: FenceAgent) -> None:
    with pytest.raises(FenceRefused, match=r"turns off VMs, and not the whole node primary/p1: name the VM$"):
        await agent.cut(P1)


async def test_a_daemon_that_is_gone_cannot_tell(
    lab: Lab, agent: FenceAgent, settings: LibvirtFence, domain: str
) -> None:
    lab.kill_daemon("p1")
    with pytest.raises(FenceFailed, match=r"not read as OFF within 2 s: libvirt at .*: Failed to connect") as raised:
        await fence_agent(replace(settings, pace=HASTY)).cut(ERP)
    assert not raised.value.seen_on
    lab.start_daemon("p1")
    # Right after a daemon's start it says of what is going down that it is not running.
    assert "read OFF" in await agent.cut(ERP)


async def test_a_daemon_that_hangs_holds_nobody_up(
    lab: Lab, agent: FenceAgent, settings: LibvirtFence, domain: str
) -> None:
    lab.pause_daemon("p1")
    with pytest.raises(FenceFailed, match=r"not read as OFF within 2 s: libvirt at .* did not answer in time$"):
        await fence_agent(replace(settings, pace=HASTY)).cut(ERP)
    lab.resume_daemon("p1")
    assert "read OFF" in await agent.cut(ERP)


async def test_without_libvirts_python_module(
    settings: LibvirtFence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libvirt.py").write_text("raise ImportError('no module here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(FenceRefused, match=r"is not installed here \(no module here\): pip install libvirt-python"):
        await fence_agent(settings).cut(ERP)


def test_the_record_is_looked_for_where_the_driver_puts_it() -> None:
    assert libvirt_domain.METADATA_URI == record.METADATA_URI


async def test_the_power_of_a_node_is_cut_by_its_controller(lab: Lab, domain: str, tmp_path: Path) -> None:
    """The controller stands where the sites reach it, and a cut takes the node's daemon and guests."""
    with IpmiBmc(
        lambda: lab.powered("p1"), lambda: lab.power_off("p1"), address=lab.root_address, password=PASSWORD
    ) as bmc:
        agent = fence_agent(IpmiFence("primary", "p1", bmc.host, "admin", password_file(tmp_path), port=bmc.port))
        try:
            assert f"power of primary/p1 read OFF from BMC {lab.root_address} at" in await agent.cut(ERP)
            assert (lab.powered("p1"), lab.qemu_pids("p1")) == (False, [])
        finally:
            lab.power_on("p1")
