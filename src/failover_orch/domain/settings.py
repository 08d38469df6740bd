"""What people want: failover TCP/IP of a VM, recovery plans.

Times are milliseconds unless the name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from failover_orch.domain.facts import FailoverKind
from failover_orch.domain.terms import LATEST, CommitPolicy, OnTaskFailure, StepPolicy, WantedPoint

__all__ = [
    "AdapterAddresses",
    "FamilyAddresses",
    "Gate",
    "GateKind",
    "PlanAction",
    "PlanActionKind",
    "RecoveryGroup",
    "RecoveryPlan",
    "UnsetAdapters",
    "VmReplicationSettings",
]


@dataclass(frozen=True, slots=True)
class FamilyAddresses:
    """One adapter's failover configuration in one family: either DHCP or static addresses.

    `addresses` are `address/prefix` in canonical form (a mask given by a user is turned into a prefix when read).
    Hyper-V takes up to five gateways and any number of DNS servers (Msvm_FailoverNetworkAdapterSettingData).
    """

    dhcp: bool = False
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AdapterAddresses:
    """What one adapter is to have after a failover. A family left out keeps the primary's configuration."""

    adapter_id: str
    ipv4: FamilyAddresses | None = None
    ipv6: FamilyAddresses | None = None


class UnsetAdapters(StrEnum):
    """What to do at failover with an adapter that has no failover configuration (and with every legacy adapter).

    REFUSE: refuse the failover before it starts. KEEP: the adapter comes up with the primary's configuration.
    """

    REFUSE = "REFUSE"
    KEEP = "KEEP"


@dataclass(frozen=True, slots=True)
class VmReplicationSettings:
    """Failover TCP/IP of a VM, all adapters at once: a newer record replaces the older whole.

    `adapters` are for the site that the VM is replicated to from its home, `home_adapters` for the way back there, and
    `test_adapters` for a test copy, on `test_network`. A test copy without addresses of its own keeps the primary's:
    its network is isolated.
    """

    vm_id: str
    adapters: tuple[AdapterAddresses, ...]
    unset_adapters: UnsetAdapters = UnsetAdapters.REFUSE
    actor: str = ""
    reason: str = ""
    set_at_ms: int = 0
    home_adapters: tuple[AdapterAddresses, ...] = ()
    test_adapters: tuple[AdapterAddresses, ...] = ()
    test_network: str = ""
    """The isolated network of a test copy; empty: connected to none."""


class PlanActionKind(StrEnum):
    """SCRIPT: a command that a site's agent runs. HTTP: a call that it makes. MANUAL: a person does it and says so."""

    SCRIPT = "SCRIPT"
    HTTP = "HTTP"
    MANUAL = "MANUAL"


@dataclass(frozen=True, slots=True)
class PlanAction:
    """Something that a plan does besides moving VMs. It is told the run's context as JSON.

    `site` is whose agent does it (empty for MANUAL). A script gets the context on its standard input, its exit status 0
    means done; an HTTP call gets it as its body, any 2xx means done. `kinds` are the failovers that it is part of;
    empty: all, so in both directions. `compensation` is the command that takes a script back.
    """

    name: str
    kind: PlanActionKind
    site: str = ""
    command: tuple[str, ...] = ()
    url: str = ""
    method: str = "POST"
    instruction: str = ""
    kinds: tuple[FailoverKind, ...] = ()
    timeout_ms: int = 60_000
    attempts: int = 1
    backoff_ms: int = 1_000
    on_failure: OnTaskFailure = OnTaskFailure.HALT
    compensation: tuple[str, ...] = ()


class GateKind(StrEnum):
    """What has to be so before a plan goes on.

    POWER: the VM runs. HEARTBEAT: its guest's integration services answer. TCP_PORT: something listens at the VM's
    failover address. SCRIPT: a command ends with status 0.
    """

    POWER = "POWER"
    HEARTBEAT = "HEARTBEAT"
    TCP_PORT = "TCP_PORT"
    SCRIPT = "SCRIPT"


@dataclass(frozen=True, slots=True)
class Gate:
    """A readiness gate: asked of each VM of its group, again and again, until it holds or the time is up."""

    kind: GateKind
    port: int = 0
    command: tuple[str, ...] = ()
    timeout_ms: int = 300_000
    on_failure: OnTaskFailure = OnTaskFailure.HALT


@dataclass(frozen=True, slots=True)
class RecoveryGroup:
    """VMs of a recovery plan that fail over side by side.

    `depends_on` names the groups that have to be done before; None: the group before it in the plan. `critical`: where
    a VM fails, nothing more is started; None: as the kind says (a planned failover stops, an unplanned one goes on).
    """

    name: str
    vm_ids: tuple[str, ...]
    depends_on: tuple[str, ...] | None = None
    critical: bool | None = None
    before: tuple[PlanAction, ...] = ()
    after: tuple[PlanAction, ...] = ()
    gates: tuple[Gate, ...] = ()


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """Groups of VMs, failed over as their dependencies say.

    `max_in_flight` is how many VMs may be under way at once, `per_node` and `per_site` how many of their steps; 0: no
    limit of the plan's own. `point`, `commit` and `window_ms` are for requests that leave theirs open.
    """

    plan_id: str
    name: str
    groups: tuple[RecoveryGroup, ...]
    actor: str = ""
    reason: str = ""
    set_at_ms: int = 0
    max_in_flight: int = 0
    per_node: int = 0
    per_site: int = 0
    step_policies: tuple[StepPolicy, ...] = ()
    point: WantedPoint = LATEST
    commit: CommitPolicy = CommitPolicy.AT_ONCE
    window_ms: int = 0
