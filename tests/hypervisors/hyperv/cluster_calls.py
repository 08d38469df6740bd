"""Cmdlets of failover clustering, WMI's classes, and what every PowerShell has."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from xml.sax.saxutils import escape

from hyperv.calls import Call, Handler, like, matching
from hyperv.enumerations import ClusterGroupState, ClusterGroupType, ClusterNodeState, VMState
from hyperv.errors import HyperVError
from hyperv.objects import Item
from hyperv.world import KVP, GuestAddresses, Machine, Node

__all__ = ["CLUSTER_CALLS"]

_CLUSTERS = "Microsoft.FailoverClusters.PowerShell"
_IPV4, _IPV6, _BOTH = 4096, 4097, 4098


def _get_cluster(call: Call) -> Iterator[Item]:
    site = call.world.sites[call.node.site]
    properties = {"Name": site.cluster, "Domain": f"{site.name}.example", "Id": _id(site.cluster)}
    items = [Item("Cluster", properties, site.cluster, site, _CLUSTERS)]
    return matching(items, {"Name": call.get("Name")})


def _id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def _this_cluster(call: Call) -> None:
    site = call.world.sites[call.node.site]
    if (named := call.get("Cluster")) and str(named).lower() not in (".", "localhost", site.cluster):
        raise HyperVError(f"Cluster '{named}' cannot be reached from a remote session.", "AccessDenied")


def _get_nodes(call: Call) -> Iterator[Item]:
    _this_cluster(call)
    items = [_node_item(call, call.world.nodes[name]) for name in call.world.sites[call.node.site].nodes]
    yield from _named(call, items)


def _node_item(call: Call, node: Node) -> Item:
    works = call.world.node_works(node.name)
    state = ClusterNodeState.Down if not works else ClusterNodeState.Paused if node.paused else ClusterNodeState.Up
    cluster = call.world.sites[node.site].cluster
    properties = {"Name": node.name, "State": state, "Id": _id(node.fqdn), "NodeWeight": 1, "Cluster": cluster}
    return Item("ClusterNode", properties, node.name, node, _CLUSTERS)


def _get_groups(call: Call) -> Iterator[Item]:
    _this_cluster(call)
    items = list(_groups(call))
    if isinstance(owner := call.get("InputObject"), Item) and owner.kind == "ClusterNode":
        items = [item for item in items if item.get("OwnerNode") == owner.get("Name")]
    if (wanted := call.get("VMId")) is not None:
        items = [item for item in items if isinstance(item.source, Machine) and item.source.vm_id == wanted]
    yield from _named(call, items)


def _groups(call: Call) -> Iterator[Item]:
    site = call.world.sites[call.node.site]
    owner = next((name for name in site.nodes if call.world.node_works(name)), site.nodes[0])
    yield _group(site.broker, owner, ClusterGroupState.Online, ClusterGroupType.VMReplicaBroker, site.cluster, None)
    for machine in call.world.machines:
        if machine.site == site.name and not machine.is_test_copy:
            state = ClusterGroupState.Online if machine.state is VMState.Running else ClusterGroupState.Offline
            yield _group(machine.name, machine.node, state, ClusterGroupType.VirtualMachine, site.cluster, machine)


def _group(
    name: str, owner: str, state: ClusterGroupState, kind: ClusterGroupType, cluster: str, source: Machine | None
) -> Item:
    properties = {
        "Name": name,
        "OwnerNode": owner,
        "State": state,
        "GroupType": kind,
        "Id": _id(f"{name}.{cluster}"),
        "Cluster": cluster,
        "IsCoreGroup": False,
    }
    return Item("ClusterGroup", properties, name, source, _CLUSTERS)


def _get_resources(call: Call) -> Iterator[Item]:
    _this_cluster(call)
    given = call.get("InputObject")
    wanted = call.get("VMId")
    items = []
    for group in _groups(call):
        machine = group.source
        if (isinstance(given, Item) and given.get("Name") != group.get("Name")) or (
            wanted is not None and (machine is None or machine.vm_id != wanted)
        ):
            continue
        kind = "Virtual Machine" if machine else "Virtual Machine Replication Broker"
        name = f"{kind} {group.get('Name')}"
        properties = {"Name": name, "OwnerGroup": group.get("Name"), "ResourceType": kind, "State": group.get("State")}
        properties |= {"OwnerNode": group.get("OwnerNode"), "Cluster": group.get("Cluster")}
        items.append(Item("ClusterResource", properties, name, machine, _CLUSTERS))
    yield from _named(call, items)


def _named(call: Call, items: list[Item]) -> Iterator[Item]:
    for name in call.get("Name") or ["*"]:
        found = list(matching(items, {"Name": name}))
        if not found and "*" not in name:
            raise HyperVError(f"{call.cmdlet.name}: '{name}' was not found.", "ObjectNotFound", target=name)
        yield from found


def _move_role(_: Call) -> Iterable[Item]:
    raise HyperVError(
        "A clustered role cannot be moved from a remote session without CredSSP: access is denied.", "AccessDenied"
    )


def _get_instances(call: Call) -> Iterator[Item]:
    query = re.fullmatch(r"(?i)select \* from (\w+)(?: where (.+))?", str(call.get("Query", "")).strip())
    name = query.group(1) if query else str(call.get("ClassName", ""))
    classes = {known.lower(): (known, instances) for known, instances in _CLASSES.items()}
    if name.lower() not in classes:
        raise HyperVError(f"Invalid class '{name}'.", "HRESULT 0x80041010", target=name)
    known, instances = classes[name.lower()]
    condition = (query.group(2) if query else call.get("Filter")) or ""
    space = str(call.get("Namespace") or "root/cimv2").replace("\\", "/").lower()
    if (space == "root/virtualization/v2") != known.startswith("Msvm_"):
        raise HyperVError(f"Invalid class '{name}' in {space}.", "HRESULT 0x80041010", target=name)
    for properties in instances(call):
        item = Item(known, properties, known, namespace=f"Microsoft.Management.Infrastructure.CimInstance#{space}")
        if all(_holds(item, part) for part in re.split(r"(?i)\s+and\s+", condition) if part):
            yield item


def _holds(item: Item, condition: str) -> bool:
    """A comparison of WQL: = or LIKE."""
    match = re.fullmatch(r"(?i)\s*(\w+)\s*(=|like)\s*['\"](.*)['\"]\s*", condition)
    if match is None:
        raise HyperVError(f"Invalid query: {condition}", "HRESULT 0x80041017")
    name, operator, wanted = match.groups()
    value = str(item.get(name))
    plain = wanted.replace("\\\\", "\\")
    return value.lower() == plain.lower() if operator == "=" else like(value, plain.replace("%", "*").replace("_", "?"))


def _guest_adapters(call: Call) -> Iterator[dict[str, Any]]:
    for machine in call.world.on(call.node.name):
        for adapter in machine.adapters:
            if adapter.legacy:
                continue
            reports = call.world.reports(machine)
            found = machine.disk.configured.get(adapter.adapter_id, GuestAddresses()) if reports else GuestAddresses()
            addresses = [address.partition("/")[::2] for address in found.addresses]
            if reports:
                suffix = f"fe{adapter.mac[6:8]}:{adapter.mac[8:]}".lower()
                addresses.append((f"fe80::215:5dff:{suffix}", "64"))
            versions = {6 if ":" in address else 4 for address, _ in addresses}
            yield {
                "InstanceID": f"Microsoft:GuestNetwork\\{str(machine.vm_id).upper()}\\{adapter.adapter_id}",
                "ProtocolIFType": _BOTH if len(versions) == 2 else _IPV6 if versions == {6} else _IPV4,
                "DHCPEnabled": False,
                "IPAddresses": tuple(address for address, _ in addresses),
                "Subnets": tuple(prefix if ":" in address else _mask(prefix) for address, prefix in addresses),
                "DefaultGateways": found.gateways,
                "DNSServers": found.dns,
            }


def _mask(prefix: str) -> str:
    bits = (0xFFFFFFFF << (32 - int(prefix))) & 0xFFFFFFFF
    return ".".join(str(bits >> shift & 255) for shift in (24, 16, 8, 0))


def _exchanges(call: Call) -> Iterator[dict[str, Any]]:
    for machine in call.world.on(call.node.name):
        known = {"OSName": machine.guest_os, "FullyQualifiedDomainName": f"{machine.name}.example"}
        items = known if call.world.reports(machine) else {}
        yield {
            "SystemName": str(machine.vm_id).upper(),
            "DeviceID": f"Microsoft:{str(machine.vm_id).upper()}\\{KVP}",
            "ElementName": "Key-Value Pair Exchange",
            "GuestIntrinsicExchangeItems": tuple(_exchanged(name, data) for name, data in items.items()),
            "GuestExchangeItems": (),
        }


def _exchanged(name: str, data: str) -> str:
    properties = "".join(
        f'<PROPERTY NAME="{key}" TYPE="string"><VALUE>{escape(value)}</VALUE></PROPERTY>'
        for key, value in (("Data", data), ("Name", name))
    )
    return f'<INSTANCE CLASSNAME="Msvm_KvpExchangeDataItem">{properties}</INSTANCE>'


def _operating_system(call: Call) -> Iterator[dict[str, Any]]:
    used = sum(4 * 2**20 for machine in call.world.on(call.node.name) if machine.state is VMState.Running)
    yield {
        "Caption": "Microsoft Windows Server 2025 Datacenter",
        "CSName": call.node.name.upper(),
        "TotalVisibleMemorySize": 64 * 2**20,
        "FreePhysicalMemory": 60 * 2**20 - used,
    }


def _volumes(call: Call) -> Iterator[dict[str, Any]]:
    yield {"Name": "C:\\", "FileSystem": "NTFS", "Capacity": 2**37, "FreeSpace": 2**36}
    path = f"C:\\ClusterStorage\\{call.node.site}\\"
    yield {"Name": path, "FileSystem": "CSVFS", "Capacity": 2**40, "FreeSpace": 7 * 2**37}


_CLASSES: Mapping[str, Callable[[Call], Iterator[dict[str, Any]]]] = {
    "Msvm_GuestNetworkAdapterConfiguration": _guest_adapters,
    "Msvm_KvpExchangeComponent": _exchanges,
    "Win32_OperatingSystem": _operating_system,
    "Win32_Volume": _volumes,
}
CLUSTER_CALLS: Mapping[str, Handler] = {
    "Get-Cluster": _get_cluster,
    "Get-ClusterNode": _get_nodes,
    "Get-ClusterGroup": _get_groups,
    "Get-ClusterResource": _get_resources,
    "Move-ClusterVirtualMachineRole": _move_role,
    "Get-CimInstance": _get_instances,
}
