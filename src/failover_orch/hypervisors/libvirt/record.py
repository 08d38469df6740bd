"""The VM's own record: an element of the domain's metadata, which every hypervisor keeps and a migration takes along.

It holds all that must outlive agents: the highest epoch, the end's place in its replication, staged addresses,
recovery points, and which commands took effect. `virsh metadata DOMAIN URI` shows it; the staged addresses stand in it
as elements of their own, for people to read.

libvirt has no compare-and-set for metadata. Whoever changes a record holds the VM's lock in its process, and reads the
record again right before it acts; what is left is the moment between reading and writing, in which another agent of
the same site would have to act on the same VM.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, replace
from xml.etree import ElementTree as ET

import msgspec

from failover_orch.domain.records import Action, StepCommand
from failover_orch.domain.replication_settings import VmReplication
from failover_orch.domain.settings import AdapterAddresses
from failover_orch.hypervisors.rules.ends import End

__all__ = ["METADATA_KEY", "METADATA_URI", "Record", "decode", "encode"]

METADATA_URI = "urn:failover-orch:vm:1"
METADATA_KEY = "failover"
_EFFECTS_KEPT = 64
"""How many commands that took effect are remembered: several times those of a run with all its attempts."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of a VM at one site. Times are milliseconds since the Unix epoch.

    Of `end`, power and what the guest has configured are as they were when it was written: whoever reads it fills in
    what is so now.
    """

    end: End
    peer_site: str
    peer_node: str = ""
    """Where the other end was when it was last heard of. Empty: it has no place yet."""
    every_ms: int = 300_000
    points: int = 4
    consistent_every: int = 0
    system: str = "linux"
    application: str = ""
    cycle: int = 0
    """The number of the last cycle that both ends have: the primary's checkpoint `cp-<cycle>` stands there."""
    sequence: int = 0
    """Of the last move that was told of this VM here; it grows, whichever node tells."""
    resynchronize: bool = False
    """The next cycle has to copy everything: nobody knows any more what has changed since the last."""
    replication: VmReplication | None = None
    """What it was last told of how to replicate. What counts of it for cycles is in the fields above."""
    trust_group: str = ""
    """Of a replica: the trust group of the primary server that it was made for; empty: of none."""
    effects: tuple[str, ...] = ()
    """The commands that took effect, newest last."""

    @property
    def vm_id(self) -> str:
        return self.end.vm_id

    def took_effect(self, command: StepCommand) -> bool:
        """Whether this very command was carried out before."""
        return _name(command) in self.effects

    def with_effect(self, command: StepCommand) -> Record:
        """The record once the command is carried out."""
        return replace(self, effects=(*self.effects, _name(command))[-_EFFECTS_KEPT:])


def _name(command: StepCommand) -> str:
    return f"{command.run_id}/{command.step}/{command.attempt}/{Action(command.action)}"


def encode(record: Record) -> str:
    """The record as the text of a metadata element."""
    root = ET.Element("vm", {"id": record.vm_id, "mode": record.end.mode, "state": record.end.state})
    root.set("epoch", str(record.end.epoch))
    for element in _staged(record.end.staged):
        root.append(element)
    # JSON may hold characters that libvirt's XML does not take.
    ET.SubElement(root, "record").text = base64.b64encode(msgspec.json.encode(record)).decode()
    return ET.tostring(root, encoding="unicode")


def decode(text: str) -> Record:
    """The record that a metadata element holds.

    Raises:
        ValueError: it is none of ours, or broken.

    """
    try:
        held = ET.fromstring(text).findtext("{*}record") or ""  # noqa: S314 - from libvirt, which has parsed it
        return msgspec.json.decode(base64.b64decode(held), type=Record)
    except (ET.ParseError, msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"not a record of failover_orch: {error}") from None


def _staged(staged: tuple[AdapterAddresses, ...]) -> Iterator[ET.Element]:
    for plan in staged:
        adapter = ET.Element("staged", {"adapter": plan.adapter_id})
        for version, family in ((4, plan.ipv4), (6, plan.ipv6)):
            if family is None:
                continue
            element = ET.SubElement(adapter, f"ipv{version}", {"dhcp": "yes"} if family.dhcp else {})
            for name, values in (("address", family.addresses), ("gateway", family.gateways), ("dns", family.dns)):
                for value in values:
                    ET.SubElement(element, name).text = value
        yield adapter
