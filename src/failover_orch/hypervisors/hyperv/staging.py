"""Failover addresses on a replica's adapters: set as a whole, and read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from failover_orch.domain.settings import AdapterAddresses
from failover_orch.errors import StepFailed
from failover_orch.hypervisors.hyperv.cmdlets import Pipeline, act, look, of_vm, where
from failover_orch.hypervisors.hyperv.failover_addresses import FIELDS, configuration_of, read_back, unsettable
from failover_orch.hypervisors.hyperv.objects import Row
from failover_orch.hypervisors.hyperv.seen import AdapterSeen, Machine

__all__ = ["is_staged", "stage"]

_NUMBER = "IPv6SubnetPrefixLength"


def is_staged(machine: Machine, adapters: Sequence[AdapterSeen], plans: Sequence[AdapterAddresses]) -> bool:
    """Whether the host has exactly these addresses staged."""
    synthetic = [adapter for adapter in adapters if not adapter.legacy]
    if unsettable(plans) or {plan.adapter_id for plan in plans} - {adapter.adapter_id for adapter in synthetic}:
        return False
    return all(_staged(machine, adapter) == _wanted(adapter, plans) for adapter in synthetic)


def stage(
    machine: Machine,
    adapters: Sequence[AdapterSeen],
    plans: Sequence[AdapterAddresses],
    do: Callable[[Machine, Pipeline], tuple[Row, ...]],
) -> None:
    """Let the host have exactly these addresses staged: an adapter or a family that is not named comes up as it is.

    Raises:
        StepFailed: the host says that it took them, and has others.

    """
    for adapter in adapters:
        if adapter.legacy:
            continue
        wanted, present = _wanted(adapter, plans), _staged(machine, adapter)
        if wanted == present:
            continue
        of_adapter = look("Get-VMNetworkAdapter") | where("Id", adapter.device)
        # What is set over something else keeps what it does not name, such as a gateway: so that goes first.
        if stale := {f"ClearFailover{family}Settings": True for family in FIELDS if present.get(f"{family}Address")}:
            do(machine, of_adapter | act("Set-VMNetworkAdapterFailoverConfiguration", **stale))
        if wanted:
            do(machine, of_adapter | act("Set-VMNetworkAdapterFailoverConfiguration", **_parameters(wanted)))
        if (found := _staged(machine, adapter)) != wanted:
            raise StepFailed(
                f"adapter {adapter.adapter_id!r} of {machine.name} on {machine.host.name} reads back with failover "
                f"addresses {_text(found)}, after it was given {_text(wanted)}"
            )


def _wanted(adapter: AdapterSeen, plans: Sequence[AdapterAddresses]) -> dict[str, str]:
    return configuration_of(next((plan for plan in plans if plan.adapter_id == adapter.adapter_id), None))


def _staged(machine: Machine, adapter: AdapterSeen) -> dict[str, str]:
    found = machine.host.run(
        of_vm(machine.vm)
        | look("Get-VMNetworkAdapter")
        | where("Id", adapter.device)
        | look("Get-VMNetworkAdapterFailoverConfiguration")
    )
    return read_back(found[0]) if found else {}


def _parameters(wanted: Mapping[str, str]) -> dict[str, str | int]:
    return {name: int(value) if name == _NUMBER else value for name, value in wanted.items()}


def _text(configuration: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in configuration.items()) or "none"
