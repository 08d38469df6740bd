"""What every kind of hypervisor has to offer a site agent.

One `Hypervisor` speaks for all nodes of a site. Its central call is `perform`: one step command in, what was found
afterwards out. What each action promises once it returns:

    INSPECT           nothing was changed; what is found is the answer
    STAGE_ADDRESSES   the replica's configuration holds exactly these failover addresses; a legacy or unknown adapter
                      is refused before anything is changed; an adapter not named comes up as it is configured
    SHUT_DOWN         the guest has been shut down and the VM is off
    PREPARE           the last log is at the replica and the primary is locked from powering up (planned failover)
    CANCEL_PREPARE    the primary replicates again and may be started
    CHECK_PRIMARY     the primary was seen to be off; or nobody can reach it, and its power was cut and read to be off,
                      or a person attests that it is off
    FAIL_OVER         the replica stands at the recovery point asked for and may be started; refused, with the points
                      there are, where none fits, and where it stands at another one (that is to be cancelled first)
    CANCEL_FAILOVER   the replica is off and receives again; whatever ran from the recovery point is gone, and the
                      recovery points are all there
    REVERSE           the failed-over end is the primary, and the end that was the primary is its replica; after a
                      committed failover only once that end was made a replica, and nothing is sent yet
    CONNECT_ADAPTERS  every adapter of the VM is connected (a replica's adapters start disconnected)
    START             the VM runs; addresses staged before its failover are applied by its guest as it boots
    VERIFY_ADDRESSES  the guest itself reports the addresses asked for, adapter by adapter
    COMPLETE          the failover is committed; its other recovery points are gone
    MAKE_REPLICA      the old primary, off and overtaken by a committed failover, is a replica that waits for its copy
    RESYNCHRONIZE     the primary copies to its replica what that lacks; it takes its time, and replication goes on then
    AWAIT_REPLICATION this end is Replicating; until then it fails
    CREATE_TEST       an isolated copy of the replica, `<name> - Test`, stands at the recovery point asked for, on the
                      replica's node, with these addresses staged and connected to `test_network` alone (to none where
                      that is empty); one for each VM, whatever becomes of the VM meanwhile
    START_TEST        the test copy runs; its guest applies the staged addresses as it boots
    VERIFY_TEST       the copy's guest itself reports the addresses asked for, adapter by adapter
    DELETE_TEST       there is no test copy
    CHECK_GATE        the gate holds: the VM runs, its integration services answer, or its guest listens at a TCP port;
                      until then it fails

RUN_SCRIPT, CALL_HTTP and gates that are scripts are the agents' own: hypervisors refuse them. Which action is legal in
which replication state is a table, `domain.transitions`; a refusal names the state, the rules and what is needed.

Replication settings are no step of a run: nodes are given theirs by `apply_server`, VMs by `apply_replication`, and
both are asked what they have. Nothing is remembered of what was wanted: what a node says it has is what it acts on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from failover_orch.domain.facts import ReplicationReport, VmMoved
from failover_orch.domain.inventory import ClusterInventory, VmInventory
from failover_orch.domain.records import RoutingUpdate, StepCommand
from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.domain.replication_settings import ReplicationServer, VmReplication

__all__ = ["Capabilities", "HostedVm", "Hypervisor", "InjectionPoint", "Observation", "Observed", "Power"]


class Power(StrEnum):
    """Whether a VM is on."""

    RUNNING = "RUNNING"
    OFF = "OFF"


class InjectionPoint(StrEnum):
    """When failover addresses reach the guest. PRE_BOOT: it finds them as it boots. IN_GUEST: set once it runs."""

    PRE_BOOT = "PRE_BOOT"
    IN_GUEST = "IN_GUEST"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a kind of hypervisor can do. A count of 0 means without limit."""

    live_migration: bool
    test_failover: bool
    recovery_points: int
    max_addresses_per_family: int
    reverse_without_full_copy: bool
    address_injection: InjectionPoint


@dataclass(frozen=True, slots=True)
class HostedVm:
    """A VM, or a replica of one, as this site has it now. `active`: this site is the one that reports its inventory."""

    vm_id: str
    name: str
    cluster: str
    node: str
    storage: str
    mode: ReplicationMode
    state: ReplicationState
    power: Power
    epoch: int
    """The highest epoch accepted for this VM here: commands of a lower one are void."""
    frequency_s: int
    active: bool


Observation = VmMoved | VmInventory | ClusterInventory
"""What hypervisors tell of their own accord. Replication reports are asked for, see `Hypervisor.reports`."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One observation and its place in what this site has to tell; positions grow."""

    position: int
    value: Observation


class Hypervisor(Protocol):
    """All hypervisors of one site. Safe for concurrent use by several tasks, and by several agents of the site."""

    @property
    def site(self) -> str:
        """The site these hypervisors are in."""

    @property
    def capabilities(self) -> Capabilities:
        """What this kind of hypervisor can do."""

    async def perform(self, command: StepCommand) -> Mapping[str, str]:
        """Make it so that `command.action` is done, and tell what is found afterwards, as `observe` does.

        Asks before it acts: what is so already is done, and nothing happens a second time. A command that took
        effect before (the same run, step and attempt) takes none again, even if things have changed since. After
        CHECK_PRIMARY `fence` says in a sentence what proves that the primary does not run; after CREATE_TEST,
        START_TEST and VERIFY_TEST recovery point, adapters and addresses are those of the test copy. Acts on
        the VM on whichever node of the site it is now, which may be another than `command.node`. Keeps the highest
        epoch it was given in its own record of the VM, also when the action itself then fails.

        Raises:
            StaleEpoch: the record holds a higher epoch; nothing was changed.
            StepRefused: the hypervisor will not do it as things are; the sentence says what would have to change.
            StepFailed: it did not work this time.

        """

    async def observe(self, vm_id: str) -> Mapping[str, str]:
        """What is so at this site now: `node`, `power`, `mode`, `state`, `epoch`, `pending_bytes`, ...

        `recovery_point` and `recovery_point_at_ms` tell the recovery point by its id and time (empty and 0: none): the
        one failed over to, or else the newest. Where there is a test copy: `test_network`, `test/power`, `test/node`,
        `test/mode`, `test/run`, `test/recovery_point`, `test/recovery_point_at_ms`. And for each adapter
        `connected/<adapter>` (yes or no) and, as far as the running guest reports them, comma separated,
        `addresses/<adapter>`, `gateways/<adapter>`, `dns/<adapter>`. Empty for a VM that this site does not have, or
        cannot ask about now.
        """

    async def clusters(self) -> tuple[ClusterInventory, ...]:
        """The site's clusters and their nodes, as they are now."""

    async def vms(self) -> tuple[HostedVm, ...]:
        """Every VM and replica of the site."""

    async def reports(self, vm_ids: Collection[str]) -> tuple[ReplicationReport, ...]:
        """How the replication of these VMs goes, as this site sees it. VMs that do not replicate are left out."""

    def watch(self) -> AsyncGenerator[tuple[Observed, ...], None]:
        """What is to be told: first what was left over, then all that is there now, then every change, for ever.

        What is there now comes after the left-over changes, and a VM's place is told in the words of its last arrival
        (the same `sequence`), so that telling it can never undo a newer move. Batches come again until `published`
        is told of them: ask for the next one only after that.
        """

    async def routed(self, update: RoutingUpdate) -> None:
        """The way to a VM has changed: who replicates it from here delivers to where its replica is now.

        May come late, twice and out of order: the one with the highest epoch holds.
        """

    async def published(self, position: int) -> None:
        """Everything up to this position is safe elsewhere and need not be told again."""

    async def apply_server(self, node: str, server: ReplicationServer) -> None:
        """Have a node accept replicas as `server` says. Once this returns it was read back so; asked again it is found.

        Raises:
            StepRefused: the site has no such node, or the node will not take a setting; the sentence names it.
            StepFailed: it did not work this time, or the node reads back something else.

        """

    async def servers(self, nodes: Collection[str] = ()) -> Mapping[str, ReplicationServer | str]:
        """What these nodes, or all of the site, accept now; for a node that cannot be asked, a sentence why.

        A node that the site does not have is left out.
        """

    async def apply_replication(self, vm_id: str, replication: VmReplication) -> None:
        """Have an active VM of this site replicate so, from its next cycle on; as `apply_server` does.

        Raises:
            StepRefused: the VM is not active here, or its hypervisor will not take one of the settings.
            StepFailed: it did not work this time, or the VM reads back something else.

        """

    async def replications(self) -> Mapping[str, VmReplication]:
        """How each VM that is active at this site, and replicates, does so. What cannot be asked now is left out."""
