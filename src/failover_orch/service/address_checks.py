"""Whether failover addresses can be set for a VM: what the command line and the HTTP service ask beforehand."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from failover_orch.domain import VmReplicationSettings, conflicts, settings_findings
from failover_orch.errors import ConfigError, LookupFailed
from failover_orch.service.read_model import ReadModel, Vm

__all__ = ["End", "check_addresses"]


class End(StrEnum):
    """Where addresses count: at the site that the VM is replicated to from its home, back there, or in a test copy.

    The values are the fields of the VM's settings.
    """

    OTHER = "adapters"
    HOME = "home_adapters"
    TEST = "test_adapters"


def check_addresses(model: ReadModel, vm: Vm, wanted: VmReplicationSettings) -> None:
    """Refuse here, before the person's eyes, what the broker would refuse later, and addresses promised to another VM.

    Raises:
        LookupFailed: the VM's inventory is not known yet.
        ConfigError: a rule speaks against the settings.

    """
    if vm.inventory is None:
        raise LookupFailed(f"the adapters of {vm.name} are not known yet: its primary site's agent reports them")
    _check_test_network(vm, wanted.test_network)
    found: list[str] = []
    for end in End:
        mine = _at(wanted, end)
        found += [f"{one.rule}: {one.message}" for one in settings_findings(vm.inventory, mine)]
        others = [
            _at(other, end) for other in model.settings() if other.vm_id != vm.vm_id and _meet(wanted, other, end)
        ]
        found += [
            f"{conflict.rule}: {conflict.message}"
            for conflict in conflicts([mine, *others])
            if any(vm_id == vm.vm_id for vm_id, _ in conflict.holders)
        ]
    if found:
        raise ConfigError(f"these failover addresses cannot be set for {vm.name}: {'; '.join(dict.fromkeys(found))}")


def _check_test_network(vm: Vm, network: str) -> None:
    adapters = vm.inventory.adapters if vm.inventory is not None else ()
    on = [adapter.adapter_id for adapter in adapters if adapter.network == network]
    if network and on:
        raise ConfigError(
            f"{vm.name} itself is on network {network} (adapter {', '.join(on)}): a test copy there would meet it; "
            "name an isolated network"
        )


def _at(settings: VmReplicationSettings, end: End) -> VmReplicationSettings:
    """The settings as they count at one end."""
    return replace(settings, adapters=getattr(settings, end))


def _meet(one: VmReplicationSettings, other: VmReplicationSettings, end: End) -> bool:
    """Whether two VMs could meet there: test copies only on one isolated network."""
    return end is not End.TEST or one.test_network == other.test_network != ""
