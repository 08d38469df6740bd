"""The demo of the real VMs from its first line to its last: what it stands on is made, and taken down again."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console

from failover_orch.config import Settings
from failover_orch.demo.processes import Processes
from failover_orch.demo.screen import Screen
from failover_orch.demo.stage import Stage, demo_directory
from failover_orch.demo.vms.machines import Machine, machines_of, make
from failover_orch.demo.vms.prober import Prober
from failover_orch.demo.vms.scene import Scene
from failover_orch.demo.vms.sites import AWAY, HOME, NODES, write_site_files
from failover_orch.demo.vms.story import Story
from failover_orch.demo.vms.told import Told
from failover_orch.errors import FailoverOrchError
from failover_orch.kafka import LocalKafka
from failover_orch.lab import IpmiBmc, Lab, require
from failover_orch.lab.guest import guest_image
from failover_orch.topology import Topology, bundled, load

__all__ = ["play"]

_TOPOLOGY = "demo-vms"
_FIRST_NODE = "p1"
_PATIENCE_S = 180.0


async def play(console: Console, *, keep: bool = False, directory: Path | None = None) -> bool:
    """Tell the story; returns whether all that is expected held.

    Leaves nothing running unless told to `keep` it; then also where something did not come, to look why.

    Raises:
        FailoverOrchError: something the demo needs is missing, or does not come.

    """
    screen = Screen(console)
    topology = load(bundled(_TOPOLOGY))
    directory = directory or demo_directory("demo-vms")
    await asyncio.to_thread(_end_earlier, directory)
    directory.mkdir(parents=True, exist_ok=True)
    stays = False
    try:
        held = await _told(screen, topology, directory)
        stays = keep
    except FailoverOrchError:
        stays = keep
        raise
    finally:
        if stays:
            screen.say(_left_up(directory))
        else:
            await asyncio.to_thread(_end, directory)
    return held


async def _told(screen: Screen, topology: Topology, directory: Path) -> bool:
    machines = machines_of(topology)
    lab = Lab(directory / "lab", NODES)
    screen.chapter("Two sites of libvirt nodes, four VMs")
    with screen.act("This machine has, or gets, what libvirt nodes need"):
        await asyncio.to_thread(require, install=True)
        image = await asyncio.to_thread(guest_image)
    with screen.act("Two sites with three nodes come up on this machine") as act:
        await asyncio.to_thread(lab.start)
        act.outcome = ", ".join(f"{name} at {site}" for name, site in NODES.items())
    kafka = LocalKafka(directory / "kafka", brokers=1, address=lab.root_address)
    with screen.act("Apache Kafka starts, and the VMs boot on p1") as act:
        logs = directory / "serial"
        logs.mkdir()
        node = lab.node(_FIRST_NODE)
        await asyncio.gather(
            asyncio.to_thread(kafka.start),
            *(asyncio.to_thread(make, machine, node, image, logs) for machine in machines),
        )
        act.outcome = f"{kafka.bootstrap}; {', '.join(machine.vm_id for machine in machines)}"
    settings = Settings(bootstrap=kafka.bootstrap, app_id="failover-orch", session_timeout=6.0)
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(Stage(screen, settings, directory, patience_s=_PATIENCE_S))
        bmc, password = _controller(lab)
        await asyncio.to_thread(bmc.start)
        stack.push_async_callback(asyncio.to_thread, bmc.stop)
        write_site_files(directory, lab, machines, bmc, password)
        await stage.make_topics((HOME, AWAY))
        prober = await stack.enter_async_context(Prober(lab, machines))
        told = await stack.enter_async_context(Told(settings, stage.codec))
        return await _acts(Story(Scene(stage, lab, bmc, topology, _by_id(machines), prober, told)))


async def _acts(story: Story) -> bool:
    await story.replicate()
    await story.move_a_replica()
    await story.fail_over_as_planned()
    await story.lose_the_primary()
    await story.come_back()
    return await story.end()


def _controller(lab: Lab) -> tuple[IpmiBmc, str]:
    """The management controller of the first node, out of band: it is reached also where the site's link is cut."""
    password = secrets.token_hex(8)
    bmc = IpmiBmc(
        lambda: lab.powered(_FIRST_NODE),
        lambda: lab.power_off(_FIRST_NODE),
        address=lab.root_address,
        password=password,
    )
    return bmc, password


def _by_id(machines: tuple[Machine, ...]) -> dict[str, Machine]:
    return {machine.vm_id: machine for machine in machines}


def _end(directory: Path) -> None:
    """End all that runs for a demo in this directory; what was logged stays. Blocks."""
    Processes(directory, {}).stop()
    LocalKafka(directory / "kafka").stop()
    Lab(directory / "lab", NODES).stop()


def _end_earlier(directory: Path) -> None:
    """End what an earlier demo has left up, and remove what it left. Blocks."""
    if directory.exists():
        _end(directory)
        shutil.rmtree(directory)


def _left_up(directory: Path) -> str:
    kafka, lab = LocalKafka(directory / "kafka"), Lab(directory / "lab", NODES)
    return (
        f"Left up, with logs in {directory}. Look around, for instance:\n"
        f"  export FAILOVER_ORCH_BOOTSTRAP={kafka.status().bootstrap}\n"
        "  failover-orch vm list\n  failover-orch run list\n  failover-orch evidence list\n"
        f"  virsh --connect '{lab.node('d1').uri}' list --all\n"
        f"  {' '.join(lab.run_outside)} ping 10.50.0.11\n"
        "The next `make demo-vms` ends what is left up."
    )
