"""Bodies of commands, as they come over HTTP. A field that nobody knows is a mistake, as is one that has no use."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from failover_orch.domain import (
    AccessRole,
    AdapterAddresses,
    ApprovalRule,
    AutomaticMode,
    FailoverKind,
    Family,
    FamilyAddresses,
    Grant,
    Policy,
    RequestAction,
    UnsetAdapters,
    VmReplicationSettings,
    parse_family,
)
from failover_orch.errors import ConfigError
from failover_orch.service.asking import SAYABLE, Wish
from failover_orch.service.terms import LATEST_WORD, Committing, committing, keeping, wanted_point

__all__ = [
    "AcknowledgementBody",
    "AddressesBody",
    "Body",
    "BrakeBody",
    "Identifier",
    "PolicyBody",
    "Reason",
    "RouteLookupBody",
    "RunBody",
    "SettingsBody",
    "TokenBody",
    "WordBody",
]

_DAY_MS = 86_400_000
_MONTH_MS = 30 * _DAY_MS
_LARGEST = 2**63 - 1

Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=2_000),
    Field(description="Why; it goes into the journal."),
]
Ticket = Annotated[str, Field(max_length=200, description="The ticket that this belongs to.")]
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_Text = Annotated[str, StringConstraints(max_length=256)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AcknowledgementBody(Body):
    reason: Reason
    ticket: Ticket = ""


class FamilyBody(Body):
    """One adapter's configuration in one family: DHCP, or static addresses as `address/prefix`."""

    dhcp: bool = False
    addresses: tuple[_Text, ...] = Field(default=(), max_length=64)
    gateways: tuple[_Text, ...] = Field(default=(), max_length=64)
    dns: tuple[_Text, ...] = Field(default=(), max_length=64)

    def family(self, family: Family) -> FamilyAddresses:
        return parse_family(family, self.addresses, dhcp=self.dhcp, gateways=self.gateways, dns=self.dns)


class AdapterBody(Body):
    """What one adapter is to have. A family left out keeps what it has."""

    adapter_id: Identifier
    ipv4: FamilyBody | None = None
    ipv6: FamilyBody | None = None

    def adapter(self) -> AdapterAddresses:
        return AdapterAddresses(
            self.adapter_id,
            self.ipv4.family(Family.IPV4) if self.ipv4 is not None else None,
            self.ipv6.family(Family.IPV6) if self.ipv6 is not None else None,
        )


class AddressesBody(Body):
    """Failover addresses of a VM, whole: after a failover, back at home, and in a test copy."""

    adapters: tuple[AdapterBody, ...] = Field(default=(), max_length=64)
    home_adapters: tuple[AdapterBody, ...] = Field(default=(), max_length=64)
    test_adapters: tuple[AdapterBody, ...] = Field(default=(), max_length=64)
    unset_adapters: UnsetAdapters = UnsetAdapters.REFUSE
    test_network: _Text = ""
    reason: Reason

    def settings(self, vm_id: str) -> VmReplicationSettings:
        """The record, but for who set it and when. Raises ConfigError where an address is none."""
        ends = []
        for adapters in (self.adapters, self.home_adapters, self.test_adapters):
            ids = [adapter.adapter_id for adapter in adapters]
            twice = next((one for one in ids if ids.count(one) > 1), None)
            if twice is not None:
                raise ConfigError(f"adapter {twice} is there twice: name each adapter once")
            ends.append(tuple(adapter.adapter() for adapter in adapters))
        return VmReplicationSettings(
            vm_id,
            ends[0],
            unset_adapters=self.unset_adapters,
            home_adapters=ends[1],
            test_adapters=ends[2],
            test_network=self.test_network,
        )


class RunBody(Body):
    """A failover to ask for. Either VMs, by id or name, or a recovery plan."""

    kind: FailoverKind
    vms: tuple[Identifier, ...] = Field(default=(), max_length=1_000)
    plan: _Text = ""
    reason: Reason
    ticket: Ticket = ""
    max_in_flight: int = Field(default=0, ge=0, le=1_000, description="VMs at once; 0: all, or as the plan says.")
    recovery_point: _Text = Field(
        default="", description="UNPLANNED, TEST: `latest`, `app-consistent`, or the id of a recovery point."
    )
    before: _Text = Field(default="", description="UNPLANNED, TEST: the newest at or before a time, or an age (`15m`).")
    commit: Committing | None = Field(default=None, description="UNPLANNED: when it is kept for good.")
    window: int = Field(default=0, ge=0, le=_MONTH_MS // 1000, description="UNPLANNED: seconds to decide otherwise.")
    keep: _Text = Field(default="", description="TEST: seconds for which the copies are kept, or `until-told`.")
    primary_is_down: bool = Field(default=False, description="UNPLANNED: the caller attests that the primary is off.")
    fence: bool = Field(default=False, description="UNPLANNED: have the primary's power cut first, where unreachable.")
    accept_data_loss: bool = Field(default=False, description="UNPLANNED: more may be lost than the limits allow.")

    def wish(self, actor: str, now_ms: int) -> Wish:
        """What is asked for. Raises ConfigError where its terms do not go together, or not with its kind."""
        useless = sorted(self.model_fields_set - _ALWAYS - _OF_KIND.get(self.kind, frozenset()))
        if useless:
            raise ConfigError(f"{useless[0]} has no use in a {self.kind.noun}: leave it out")
        commit, window_ms = (
            keeping(self.keep) if self.kind is FailoverKind.TEST else committing(self.commit, self.window)
        )
        return Wish(
            self.kind,
            self.vms,
            self.plan,
            actor,
            self.reason,
            self.ticket,
            self.max_in_flight,
            primary_is_down=self.primary_is_down,
            fence=self.fence,
            accept_data_loss=self.accept_data_loss,
            point=wanted_point(self.recovery_point, self.before, now_ms),
            commit=commit,
            window_ms=window_ms,
            latest=self.recovery_point == LATEST_WORD,
            at_once=self.commit is Committing.AT_ONCE,
        )


_ALWAYS = frozenset({"kind", "vms", "plan", "reason", "ticket", "max_in_flight"})
_OF_KIND = {
    FailoverKind.UNPLANNED: frozenset(RunBody.model_fields) - {"keep"},
    FailoverKind.TEST: frozenset({"recovery_point", "before", "keep"}),
}


class WordBody(Body):
    """A word to a run."""

    action: RequestAction = Field(json_schema_extra={"enum": [action.value for action in SAYABLE]})
    reason: Reason
    ticket: Ticket = ""
    step: _Text = Field(default="", description="Of a plan's run: the task that it is about.")
    recovery_point: _Text = Field(default="", description="TRY_ANOTHER: `latest`, `app-consistent`, or an id.")
    before: _Text = Field(default="", description="TRY_ANOTHER: the newest at or before a time, or an age.")


class ApprovalBody(Body):
    """How many of which people have to agree; no names: anybody but the one who asks."""

    needed: int = Field(ge=1, le=20)
    approvers: tuple[Identifier, ...] = Field(default=(), max_length=100)
    kinds: tuple[FailoverKind, ...] = Field(default=(), max_length=len(FailoverKind))
    to_site: _Text = ""
    within_ms: int = Field(default=3_600_000, ge=1_000, le=_MONTH_MS)

    def rule(self) -> ApprovalRule:
        """The rule. Raises ConfigError where it asks for more people than it names."""
        if self.approvers and len(set(self.approvers)) < self.needed:
            raise ConfigError(f"an approval asks for {self.needed} people and names {len(set(self.approvers))}")
        return ApprovalRule(self.needed, self.approvers, self.kinds, self.to_site, self.within_ms)


class PolicyBody(Body):
    """A policy, whole: what it leaves out is left to the wider one. 0 switches off what says so."""

    mode: AutomaticMode | None = None
    observers: int | None = Field(default=None, ge=2, le=9)
    evidence_within_ms: int | None = Field(default=None, ge=1_000, le=_DAY_MS)
    hold_down_ms: int | None = Field(default=None, ge=0, le=_DAY_MS)
    cooldown_ms: int | None = Field(default=None, ge=0, le=_MONTH_MS)
    brake_runs: int | None = Field(default=None, ge=0, le=10_000)
    brake_within_ms: int | None = Field(default=None, ge=1_000, le=_MONTH_MS)
    rpo_ms: int | None = Field(default=None, ge=0, le=_MONTH_MS)
    max_data_loss_ms: int | None = Field(default=None, ge=0, le=_MONTH_MS)
    missed_cycles_percent: int | None = Field(default=None, ge=1, le=100)
    replication_age_ms: int | None = Field(default=None, ge=1_000, le=_MONTH_MS)
    silent_cycles: int | None = Field(default=None, ge=1, le=1_000)
    recover_after_ms: int | None = Field(default=None, ge=0, le=_DAY_MS)
    drill_within_ms: int | None = Field(default=None, ge=0, le=3_650 * _DAY_MS)
    approvals: tuple[ApprovalBody, ...] | None = Field(default=None, max_length=100)
    reason: Reason

    def over(self, policy: Policy) -> Policy:
        """The policy for the same scope and target. Raises ConfigError as `ApprovalBody.rule` does."""
        limits = {name: getattr(self, name) for name in type(self).model_fields if name not in ("approvals", "reason")}
        rules = tuple(one.rule() for one in self.approvals) if self.approvals is not None else None
        return Policy(policy.scope, policy.target, **limits, approvals=rules, reason=self.reason)


class BrakeBody(Body):
    engaged: bool
    reason: Reason


class SettingsBody(Body):
    """A change of replication settings: texts by the settings' names, an empty text puts one back to its default."""

    changes: dict[Identifier, Annotated[str, StringConstraints(max_length=100_000)]] = Field(max_length=100)
    reason: Reason
    ticket: Ticket = ""
    based_on: int = Field(
        default=-1, ge=-1, le=_LARGEST, description="The version that it was made from; -1: whatever is there."
    )


class GrantBody(Body):
    role: AccessRole
    sites: tuple[Identifier, ...] = Field(default=(), max_length=100)
    plans: tuple[Identifier, ...] = Field(default=(), max_length=100)

    def grant(self) -> Grant:
        return Grant(self.role, self.sites, self.plans)


class TokenBody(Body):
    """An API token to be made, for whom, and for how long it holds."""

    name: Identifier
    grants: tuple[GrantBody, ...] = Field(min_length=1, max_length=20)
    lifetime_s: int = Field(ge=60, le=366 * 86_400)
    reason: Reason


class RouteLookupBody(Body):
    """VMs by id or name, each with the epoch that the caller was given last, if any."""

    vms: tuple[Identifier, ...] = Field(min_length=1, max_length=1_000)
    known_epochs: dict[Identifier, Annotated[int, Field(ge=0, le=_LARGEST)]] = Field(default={}, max_length=1_000)
