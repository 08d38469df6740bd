"""What a guest says of itself, in this project's words."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv6Address, ip_address, ip_interface
from uuid import UUID

from failover_orch.domain.guests import SUPPORTED_GUESTS
from failover_orch.domain.settings import AdapterAddresses
from failover_orch.hypervisors.hyperv.cmdlets import look, where
from failover_orch.hypervisors.hyperv.host import Host
from failover_orch.hypervisors.hyperv.objects import Row
from failover_orch.hypervisors.hyperv.seen import WMI, AdapterSeen
from failover_orch.hypervisors.rules.ends import Configuration

__all__ = ["configured", "expected_of", "system_called", "systems"]

_PROPERTY = re.compile(r'<PROPERTY NAME="(?P<name>\w+)"[^>]*>\s*<VALUE>(?P<value>[^<]*)</VALUE>')
_SYSTEMS = tuple(
    sorted(
        ((name.partition(" (")[0].lower(), system) for system, name in SUPPORTED_GUESTS.items()),
        key=lambda entry: -len(entry[0]),
    )
)
"""The longest name first: "Windows Server 2012 R2" is not "Windows Server 2012"."""


def configured(
    found: Iterable[Row], adapters: Sequence[AdapterSeen], expected: Collection[str] = ()
) -> Mapping[str, Configuration]:
    """What the guest has configured on each adapter, by what the adapter is called; `found` is WMI's word of it.

    What every guest has of its own (link-local addresses and routers, the name servers that Windows makes up where it
    was given none) is left out, unless it is `expected`.
    """
    by_device = {row.text("InstanceID").rpartition("\\")[2].lower(): row for row in found}
    return {
        adapter.adapter_id: _configuration(by_device[adapter.guest_key], expected)
        for adapter in adapters
        if adapter.guest_key in by_device
    }


def expected_of(*plans: Iterable[AdapterAddresses]) -> frozenset[str]:
    """Every address, gateway and name server that is wanted anywhere."""
    return frozenset(
        value
        for each in plans
        for plan in each
        for family in (plan.ipv4, plan.ipv6)
        if family is not None
        for value in (*family.addresses, *family.gateways, *family.dns)
    )


def _configuration(row: Row, expected: Collection[str]) -> Configuration:
    pairs = zip(row.texts("IPAddresses"), row.texts("Subnets"), strict=False)
    interfaces = _read(ip_interface, (f"{_bare(address)}/{subnet.removeprefix('/')}" for address, subnet in pairs))
    return Configuration(
        tuple(text for text in interfaces if text in expected or not _made_up(text.partition("/")[0])),
        _told(row.texts("DefaultGateways"), expected),
        _told(row.texts("DNSServers"), expected),
    )


def _told(texts: Iterable[str], expected: Collection[str]) -> tuple[str, ...]:
    canonical = _read(ip_address, (_bare(text) for text in texts if text))
    return tuple(text for text in canonical if text in expected or not _made_up(text))


def _read(how: Callable[[str], object], texts: Iterable[str]) -> list[str]:
    """The texts in their canonical form; what is none is left out, for a guest may report whatever it likes."""
    found = []
    for text in texts:
        with suppress(ValueError):
            found.append(str(how(text)))
    return found


def _bare(address: str) -> str:
    """Without the zone that guests write behind link-local addresses."""
    return address.partition("%")[0]


def _made_up(text: str) -> bool:
    address = ip_address(text)
    return address.is_link_local or (isinstance(address, IPv6Address) and address.is_site_local)


def systems(host: Host, vm: UUID | None = None) -> Mapping[UUID, str]:
    """The system of a VM's guest, or of all guests of a node, as far as they tell it; by VM, in our words."""
    pipeline = look("Get-CimInstance", Namespace=WMI, ClassName="Msvm_KvpExchangeComponent")
    if vm is not None:
        pipeline |= where("SystemName", str(vm))
    found: dict[UUID, str] = {}
    for row in host.run(pipeline):
        for item in row.texts("GuestIntrinsicExchangeItems"):
            # Written by the guest: nothing but these two values is taken from it, and neither is ever run.
            told = {match["name"]: html.unescape(match["value"]) for match in _PROPERTY.finditer(item)}
            if told.get("Name") == "OSName":
                found[UUID(row.text("SystemName"))] = system_called(told.get("Data", ""))
    return found


def system_called(name: str) -> str:
    """The identifier of the system that a guest calls so; what is on no list keeps the guest's own words.

    `Windows Server 2022 Datacenter` is `windows-server-2022`.
    """
    spoken = name.lower().replace("microsoft ", "")
    return next((system for known, system in _SYSTEMS if spoken.startswith(known)), spoken)
