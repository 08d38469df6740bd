"""How failover addresses reach a guest: with the firmware configuration, on a volume, or through its agent.

The first two are put into the domain before it starts, and the guest applies them as it boots. Either carries a token:
a guest that has applied what came under it once leaves it alone from then on, so that what is changed inside later
stays, however often it boots. In all three ways a family that is not planned keeps what the guest's disk says.
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from ipaddress import ip_address, ip_interface

import pycdlib

from failover_orch.domain.settings import AdapterAddresses, FamilyAddresses
from failover_orch.hypervisors.libvirt.domain_xml import (
    DomainAdapter,
    describe,
    injected,
    with_fw_cfg,
    with_volume,
    without_injection,
)
from failover_orch.hypervisors.libvirt.in_guest import planned_families
from failover_orch.hypervisors.libvirt.node import Node
from failover_orch.hypervisors.libvirt.settings import Injection
from failover_orch.hypervisors.rules import Configuration

__all__ = ["cloud_init", "netcfg", "prepared", "remove_volume", "volume"]

_SEPARATOR = ";"
"""Of several values. Not a comma: libvirt 9 hands it to QEMU's command line as it is, where it ends the text."""
_USER_DATA = """\
#cloud-config
# The instance id is new so that the network is configured anew. Whatever else a new instance would mean is left out.
preserve_hostname: true
ssh_deletekeys: false
users: []
"""


async def prepared(
    node: Node,
    xml: str,
    how: Injection,
    plans: Sequence[AdapterAddresses],
    *,
    token: str,
    known: Mapping[str, Configuration],
) -> str:
    """The inactive XML with which a VM is to start so that its guest applies these addresses, and nothing older.

    `token` tells this failover from others, and is the same whenever its start is tried again. `known` is what the
    guest has configured on its adapters so far: cloud-init replaces all of that, so what stays has to be said.

    Raises:
        StepFailed: the volume could not be put on the node.

    """
    await remove_volume(node, xml)
    if how is Injection.AGENT or not plans:
        return without_injection(xml)
    description = describe(xml)
    text = netcfg(plans, description.adapters, token)
    if how is Injection.FW_CFG:
        return with_fw_cfg(xml, text)
    # Beside the disks, where a migration finds it too.
    path = f"{description.storage}/{description.uuid}-cidata.iso"
    files = cloud_init(plans, description.adapters, known, token)
    await node.write(path, _chunks(volume({**files, "netcfg": text})))
    return with_volume(xml, path)


async def remove_volume(node: Node, xml: str) -> None:
    """Remove the volume that this XML names, if it names one: the domain is off, or gone."""
    path = injected(xml)[1] if xml else ""
    if path:
        await node.run("rm", "-f", "--", path)


def netcfg(plans: Sequence[AdapterAddresses], adapters: Sequence[DomainAdapter], token: str) -> str:
    """What a guest is to apply, as text: the token, then a line for each adapter.

        id=run-1
        mac=52:54:00:00:00:01 v4=10.50.0.21/24 gw4=10.50.0.1 v6=fd50::21/64 gw6=fd50::1 dns=10.50.0.2;10.50.0.3
        mac=52:54:00:00:00:02 dhcp4=1

    A family that a line leaves out stays as it is.
    """
    macs = {adapter.adapter_id: adapter.mac for adapter in adapters}
    lines = [f"id={token}"]
    for plan in plans:
        words = [f"mac={macs[plan.adapter_id]}"]
        servers: list[str] = []
        for version, family in planned_families(plan):
            words.append(f"dhcp{version}=1" if family.dhcp else f"v{version}={_SEPARATOR.join(family.addresses)}")
            if family.gateways:
                words.append(f"gw{version}={_SEPARATOR.join(family.gateways)}")
            servers += family.dns
        if servers:
            words.append(f"dns={_SEPARATOR.join(servers)}")
        lines.append(" ".join(words))
    return "".join(f"{line}\n" for line in lines)


def cloud_init(
    plans: Sequence[AdapterAddresses],
    adapters: Sequence[DomainAdapter],
    known: Mapping[str, Configuration],
    token: str,
) -> Mapping[str, str]:
    """The files of cloud-init's NoCloud data source, by their names.

    cloud-init configures the network anew for a new instance, and knows of nothing that was before: so the files say
    for every adapter what it is to have, of each family what is planned or else what is known.
    """
    planned = {plan.adapter_id: plan for plan in plans}
    ethernets = {}
    for number, adapter in enumerate(adapters):
        plan = planned.get(adapter.adapter_id, AdapterAddresses(adapter.adapter_id))
        had = known.get(adapter.adapter_id, Configuration())
        ethernets[f"nic{number}"] = {
            "match": {"macaddress": adapter.mac},
            **_ethernet(
                {version: family or _kept(had, version) for version, family in ((4, plan.ipv4), (6, plan.ipv6))}
            ),
        }
    # JSON is YAML too.
    return {
        "meta-data": json.dumps({"instance-id": token}) + "\n",
        "user-data": _USER_DATA,
        "network-config": json.dumps({"version": 2, "ethernets": ethernets}, indent=2) + "\n",
    }


def _ethernet(families: Mapping[int, FamilyAddresses]) -> Mapping[str, object]:
    everywhere = {4: "0.0.0.0/0", 6: "::/0"}
    said: dict[str, object] = {f"dhcp{version}": family.dhcp for version, family in families.items()}
    addresses = [address for family in families.values() for address in family.addresses]
    servers = [server for family in families.values() for server in family.dns]
    routes = [
        {"to": everywhere[version], "via": gateway, **({"metric": 100 + place} if place else {})}
        for version, family in families.items()
        for place, gateway in enumerate(family.gateways)
    ]
    if addresses:
        said["addresses"] = addresses
    if routes:
        said["routes"] = routes
    if servers:
        said["nameservers"] = {"addresses": servers}
    return said


def _kept(had: Configuration, version: int) -> FamilyAddresses:
    return FamilyAddresses(
        addresses=tuple(text for text in had.addresses if ip_interface(text).version == version),
        gateways=tuple(text for text in had.gateways if ip_address(text).version == version),
        dns=tuple(text for text in had.dns if ip_address(text).version == version),
    )


def volume(files: Mapping[str, str]) -> bytes:
    """An ISO 9660 volume labelled `cidata` with these files."""
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, vol_ident="cidata", joliet=3, rock_ridge="1.09")
    for number, (name, text) in enumerate(files.items()):
        content = text.encode()
        image.add_fp(io.BytesIO(content), len(content), f"/F{number}.;1", rr_name=name, joliet_path=f"/{name}")
    written = io.BytesIO()
    image.write_fp(written)
    image.close()
    return written.getvalue()


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content
