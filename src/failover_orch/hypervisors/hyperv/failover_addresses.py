"""Failover TCP/IP between this project's words and those of Set-VMNetworkAdapterFailoverConfiguration.

Hyper-V's commands take, of each family, one address, one gateway and two name servers; IPv4 with a mask, IPv6 with the
length of its prefix. DHCP and lists are for WMI alone. A family that is not set comes up as the primary has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_interface

from failover_orch.domain.addresses import mask_of_prefix
from failover_orch.domain.records import StepCommand
from failover_orch.domain.settings import AdapterAddresses, FamilyAddresses
from failover_orch.errors import StepRefused
from failover_orch.hypervisors.hyperv.objects import Row

__all__ = ["FIELDS", "MAX_DNS", "configuration_of", "read_back", "settable", "unsettable"]

MAX_DNS = 2
_PREFIX = "IPv6SubnetPrefixLength"
FIELDS: Mapping[str, tuple[str, ...]] = {
    "IPv4": ("Address", "SubnetMask", "DefaultGateway", "PreferredDNSServer", "AlternateDNSServer"),
    "IPv6": ("Address", "SubnetPrefixLength", "DefaultGateway", "PreferredDNSServer", "AlternateDNSServer"),
}
"""The parameters of a family, without its name in front."""


def settable(command: StepCommand) -> None:
    """Whether Hyper-V's commands can stage these addresses.

    Raises:
        StepRefused: they cannot; says which and why.

    """
    if problem := unsettable(command.addresses):
        raise StepRefused(f"{command.vm_id}: {problem}")


def unsettable(plans: Sequence[AdapterAddresses]) -> str:
    """What Hyper-V's commands cannot stage of these addresses, as a clause; empty: they can stage all."""
    for plan in plans:
        for name, family in (("IPv4", plan.ipv4), ("IPv6", plan.ipv6)):
            if family is not None and (problem := _problem(name, family)):
                return f"adapter {plan.adapter_id!r}: {problem}"
    return ""


def _problem(name: str, family: FamilyAddresses) -> str:
    if family.dhcp:
        return (
            f"{name} by DHCP cannot be staged with Hyper-V's commands: leave {name} out, and the adapter comes up as "
            "the primary's is configured"
        )
    counts = (
        ("addresses", family.addresses, 1),
        ("gateways", family.gateways, 1),
        ("DNS servers", family.dns, MAX_DNS),
    )
    for what, values, most in counts:
        if len(values) > most:
            return f"{len(values)} {name} {what} are set, and Hyper-V's commands take {most}; keep {most}"
    return "" if family.addresses else f"no {name} address is set; set one or leave {name} out"


def configuration_of(plan: AdapterAddresses | None) -> dict[str, str]:
    """The configuration that an adapter is to have, by parameter; empty for a family that is not staged."""
    wanted: dict[str, str] = {}
    for name, family in (("IPv4", plan.ipv4 if plan else None), ("IPv6", plan.ipv6 if plan else None)):
        if family is None or not family.addresses:
            continue
        interface = ip_interface(family.addresses[0])
        prefix = interface.network.prefixlen
        values = (
            str(interface.ip),
            mask_of_prefix(prefix) if name == "IPv4" else str(prefix),
            *(family.gateways or ("",))[:1],
            *(*family.dns, "", "")[:MAX_DNS],
        )
        wanted |= {name + what: value for what, value in zip(FIELDS[name], values, strict=True) if value}
    return wanted


def read_back(row: Row) -> dict[str, str]:
    """The configuration that the host says an adapter has, in the same form."""
    found: dict[str, str] = {}
    for name, fields in FIELDS.items():
        if not row.text(f"{name}Address"):
            continue
        found |= {name + what: _canonical(name + what, row.text(name + what)) for what in fields}
    return {parameter: value for parameter, value in found.items() if value}


def _canonical(parameter: str, value: str) -> str:
    if not value or parameter == _PREFIX:
        return value.removeprefix("/")
    try:
        return str(ip_address(value))
    except ValueError:
        return value
