"""A small world for tests: two sites of two nodes each, and the VMs that a test asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from failover_orch.domain.inventory import (
    Adapter,
    AdapterKind,
    ClusterInventory,
    Guest,
    IntegrationServices,
    Node,
    NodeState,
    Replication,
    Storage,
    VmInventory,
)
from failover_orch.domain.records import Action, StepCommand
from failover_orch.domain.replication import ReplicationState
from failover_orch.domain.settings import AdapterAddresses, FamilyAddresses
from failover_orch.hypervisors.simulated import PlacedVm, SimulatedWorld

__all__ = ["DR_ADDRESSES", "NOW", "Clock", "command", "make_vm", "make_world"]

NOW = 1_800_000_000_000

DR_ADDRESSES = (
    AdapterAddresses(
        "nic-1",
        ipv4=FamilyAddresses(addresses=("10.50.0.21/24",), gateways=("10.50.0.1",), dns=("10.50.0.2", "10.50.0.3")),
        ipv6=FamilyAddresses(addresses=("fd50::21/64",), gateways=("fd50::1",)),
    ),
)


class Clock:
    """A clock that stands still until it is told to go on. Milliseconds."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1000)


def make_vm(vm_id: str = "vm-1", *adapters: Adapter, integration: str = "RUNNING", frequency_s: int = 30) -> PlacedVm:
    default = Adapter("nic-1", AdapterKind.SYNTHETIC, "00155d000001", "lan", ("10.10.0.21/24", "fd10::21/64"))
    inventory = VmInventory(
        vm_id,
        f"name-of-{vm_id}",
        adapters or (default,),
        Guest("windows-server-2022", IntegrationServices(integration)),
        Replication(
            ReplicationState.REPLICATING, "primary", "dr", "primary-cluster", "dr-cluster", frequency_s=frequency_s
        ),
    )
    return PlacedVm(inventory, "p1", "/csv/p", "d1", "/csv/d")


def make_world(
    path: Path,
    vms: Sequence[PlacedVm] = (),
    *,
    clock: Clock | None = None,
    accepts_replicas: bool = True,
    fences: Sequence[str] = (),
) -> SimulatedWorld:
    storages = (Storage("/csv/p", 1000, 900), Storage("/csv/d", 1000, 900), Storage("/csv/e", 1000, 900))
    clusters = [
        ClusterInventory(
            f"{site}-cluster",
            site,
            f"{site}-broker",
            tuple(Node(name, NodeState.UP, 65536, 65536, storages=storages) for name in nodes),
        )
        for site, nodes in (("primary", ("p1", "p2")), ("dr", ("d1", "d2")))
    ]
    clusters[0] = replace(clusters[0], accepts_replicas=accepts_replicas)
    clusters[1] = replace(clusters[1], fences=tuple(fences))
    placed = vms or (make_vm(),)
    if clock is None:
        return SimulatedWorld.create(path, clusters, placed, boot_ms=0, shutdown_ms=0)
    return SimulatedWorld.create(path, clusters, placed, boot_ms=0, shutdown_ms=0, clock=clock)


def command(
    action: Action,
    site: str = "dr",
    *,
    vm_id: str = "vm-1",
    epoch: int = 5,
    run_id: str = "run-1",
    step: str = "",
    attempt: int = 1,
    addresses: tuple[AdapterAddresses, ...] = (),
    attested: bool = False,
    deadline_ms: int = NOW + 60_000,
) -> StepCommand:
    return StepCommand(
        run_id=run_id,
        step=step or action.value,
        attempt=attempt,
        vm_id=vm_id,
        site=site,
        node="d1" if site == "dr" else "p1",
        epoch=epoch,
        action=action,
        issued_at_ms=NOW,
        deadline_ms=deadline_ms,
        peer_site="primary" if site == "dr" else "dr",
        peer_node="p1" if site == "dr" else "d1",
        addresses=addresses,
        attested=attested,
    )
