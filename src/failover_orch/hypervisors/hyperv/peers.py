"""The other end of a VM, as far as the hosts of its site can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from failover_orch.domain.records import Action, StepCommand
from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.errors import StepFailed, StepRefused
from failover_orch.hypervisors.hyperv.cmdlets import look
from failover_orch.hypervisors.hyperv.ends import Found, bare_end, record_of
from failover_orch.hypervisors.hyperv.host import Host
from failover_orch.hypervisors.hyperv.nodes import find, look_at
from failover_orch.hypervisors.hyperv.record import Record
from failover_orch.hypervisors.hyperv.seen import Machine
from failover_orch.hypervisors.hyperv.settings import HyperVPeer, VmNaming
from failover_orch.hypervisors.rules.ends import End

__all__ = ["NEEDS_PEER", "OtherEnd", "Peers"]

NEEDS_PEER = frozenset(
    {
        Action.CHECK_PRIMARY,
        Action.PREPARE,
        Action.CANCEL_PREPARE,
        Action.REVERSE,
        Action.MAKE_REPLICA,
        Action.RESYNCHRONIZE,
    }
)
"""Actions that depend on what is so at the other end."""


@dataclass(frozen=True, slots=True)
class OtherEnd:
    """The other end of a VM. Without `machine`: its site has it nowhere, or cannot be asked (`reachable` False)."""

    peer: HyperVPeer | None
    end: End | None
    reachable: bool
    machine: Machine | None = None
    record: Record | None = None
    accepts: bool = True
    """Its cluster is enabled to receive replicas."""


class Peers:
    """The hosts of the other sites."""

    def __init__(self, hosts: Mapping[str, tuple[Host, ...]], peers: tuple[HyperVPeer, ...], naming: VmNaming) -> None:
        self._hosts = hosts
        self._peers = {peer.site: peer for peer in peers}
        self._naming = naming

    def of(self, site: str) -> HyperVPeer | None:
        """The settings of a site; of the only one there is, where none is named."""
        if not site and len(self._peers) == 1:
            return next(iter(self._peers.values()))
        return self._peers.get(site)

    def named(self, server: str) -> HyperVPeer | None:
        """The site that this server or broker belongs to, by the first part of its name; of the only one, else none."""
        label = server.partition(".")[0].lower()
        for peer in self._peers.values():
            names = (peer.broker, *(node.name for node in peer.nodes), *(node.address for node in peer.nodes))
            if label and label in {name.partition(".")[0].lower() for name in names}:
                return peer
        return self.of("")

    def machines(self) -> tuple[Machine, ...]:
        """Every VM of the other sites, as far as they answer."""
        looks = [look_at(site, hosts) for site, hosts in self._hosts.items()]
        return tuple(machine for look in looks for machine in look.machines)

    def other_end(self, found: Found, command: StepCommand) -> OtherEnd:
        """The other end of a VM, at the command's peer site."""
        site = command.peer_site
        peer = self.of(site)
        if peer is None:
            return OtherEnd(None, _assumed(found, command, site), reachable=False)
        try:
            machine, _ = find(peer.site, self._hosts[peer.site], found.vm_id, self._naming)
        except StepFailed:
            return OtherEnd(peer, _assumed(found, command, peer.site, peer.cluster), reachable=False)
        except StepRefused:
            return OtherEnd(peer, None, reachable=True)
        record = record_of(machine, peer.site)
        return OtherEnd(
            peer,
            bare_end(peer.site, peer.cluster, found.vm_id, machine, record.epoch),
            reachable=True,
            machine=machine,
            record=record,
            accepts=command.action is not Action.REVERSE or _accepts(machine.host),
        )


def _accepts(host: Host) -> bool:
    return any(row.flag("ReplicationEnabled") for row in host.run(look("Get-VMReplicationServer")))


def _assumed(found: Found, command: StepCommand, site: str, cluster: str = "") -> End:
    """What the end that nobody can ask is taken for: the primary of a replica, which it must not run beside."""
    mode = found.end.mode
    other = ReplicationMode.REPLICA if mode is ReplicationMode.PRIMARY else ReplicationMode.PRIMARY
    return replace(
        found.end,
        site=site or "its other site",
        cluster=cluster,
        node=command.peer_node,
        mode=other,
        state=ReplicationState.REPLICATING,
        adapters=(),
        copy=None,
        epoch=0,
    )
