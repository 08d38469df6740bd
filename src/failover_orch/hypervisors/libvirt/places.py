"""Where a VM is, of all that the nodes of its site have of it. All pure.

Several nodes have a domain of one VM while it moves between them, after a migration that left its definition behind,
and after a node that died was replaced by another. Which one is the VM:

| | what the node has | counts |
| --- | --- | --- |
| W1 | paused, as a migration comes in (it is not persistent yet) | not: the migration may still fail |
| W2 | off, since it migrated away | not |
| W3 | running, or going down | before W4 and W5 |
| W4 | paused, whoever did it: the source of a migration that changes over | before W5 |
| W5 | off, or started paused by us and not let go yet | if there is nothing else |
| W6 | several by the same rule | where it was seen last, was told to be, or the newest move was told |
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from xml.etree import ElementTree as ET

import libvirt

from failover_orch.domain.facts import MoveKind
from failover_orch.hypervisors.libvirt.domain_copies import TEST_URI
from failover_orch.hypervisors.libvirt.record import METADATA_URI, Record, decode
from failover_orch.hypervisors.protocol import Power

__all__ = [
    "PLACE_KEY",
    "PLACE_URI",
    "STARTING_KEY",
    "STARTING_URI",
    "Seen",
    "ToldPlace",
    "chosen",
    "place_text",
    "seen",
]

PLACE_URI = f"{METADATA_URI}:place"
PLACE_KEY = "failoverplace"
"""Of the metadata element that says which place of the VM was told last. Only `watching` writes it."""
STARTING_URI = f"{METADATA_URI}:starting"
STARTING_KEY = "failoverstarting"
"""Of the element that a domain has, while it is active, from being started paused until it is let go."""

_RUNS = frozenset(
    {
        libvirt.VIR_DOMAIN_RUNNING,
        libvirt.VIR_DOMAIN_BLOCKED,
        libvirt.VIR_DOMAIN_SHUTDOWN,
        libvirt.VIR_DOMAIN_PMSUSPENDED,
    }
)
_BEFORE_IT_CAME = frozenset({libvirt.VIR_DOMAIN_PAUSED_STARTING_UP, libvirt.VIR_DOMAIN_PAUSED_MIGRATION})


class Standing(IntEnum):
    """How much a node's domain says that the VM is there."""

    NOT_HERE = 0
    OFF = 1
    PAUSED = 2
    RUNS = 3


@dataclass(frozen=True, slots=True)
class ToldPlace:
    """The place of a VM that was told last, in the words of its arrival. `sequence` grows with every move."""

    site: str
    node: str
    storage: str
    kind: MoveKind
    at_ms: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A domain as one node has it. `state` and `reason` are libvirt's numbers."""

    node: str
    uuid: str
    name: str
    state: int
    reason: int
    persistent: bool
    xml: str
    live_xml: str
    """Empty where it is off."""
    record: Record | None = None
    copy_of: str = ""
    """The VM that it is a test copy of."""
    told: ToldPlace | None = None
    marked: bool = False
    """Started paused by us. The mark stays a moment after it was let go."""
    broken: str = ""
    """What is wrong with its record, where that cannot be read."""

    @property
    def standing(self) -> Standing:
        if self.state in _RUNS:
            return Standing.RUNS
        if self.paused:
            if self.incoming:
                return Standing.NOT_HERE
            return Standing.OFF if self.marked else Standing.PAUSED
        return Standing.NOT_HERE if self.left else Standing.OFF

    @property
    def paused(self) -> bool:
        return bool(self.state == libvirt.VIR_DOMAIN_PAUSED)

    @property
    def incoming(self) -> bool:
        """A migration to this node has begun, and the VM still is where it comes from."""
        return self.paused and not self.persistent and self.reason in _BEFORE_IT_CAME

    @property
    def left(self) -> bool:
        """Only its definition is still here: it migrated away."""
        return has_left(self.state, self.reason)

    @property
    def power(self) -> Power:
        """RUNNING wherever a guest may run: somebody may let one go that is suspended."""
        return Power.RUNNING if self.standing > Standing.OFF else Power.OFF

    @property
    def starting(self) -> bool:
        """Started paused by us, and not let go since: no guest runs."""
        return self.marked and self.paused

    @property
    def booted(self) -> bool:
        """It was started on this node, and did not come to it running."""
        return (self.state, self.reason) == (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED)


def seen(
    *, node: str, uuid: str, name: str, state: int, reason: int, persistent: bool, xml: str, live_xml: str
) -> Seen:
    """A domain with what its metadata says. `xml` is the inactive XML; what is live counts more, where it is active.

    A migration takes the live metadata along, and a daemon that dies between writing the two has written it first.
    """
    metadata = _metadata(live_xml or xml)
    record, broken = None, ""
    if METADATA_URI in metadata:
        try:
            record = decode(ET.tostring(metadata[METADATA_URI], encoding="unicode"))
        except ValueError as error:
            broken = str(error)
    return Seen(
        node=node,
        uuid=uuid,
        name=name,
        state=state,
        reason=reason,
        persistent=persistent,
        xml=xml,
        live_xml=live_xml,
        record=record,
        copy_of=(metadata[TEST_URI].text or "").strip() if TEST_URI in metadata else "",
        told=_told(metadata[PLACE_URI]) if PLACE_URI in metadata else None,
        marked=STARTING_URI in metadata,
        broken=broken,
    )


def chosen(found: Sequence[Seen], last: str, away: Collection[str]) -> Seen | None:
    """Which of these is the VM, by the rules above. `last`: the node where it was; `away`: nodes that do not answer.

    None where nobody can say: none of them counts, or where it was does not answer and it does not run elsewhere.
    """
    there = [each for each in found if each.standing is not Standing.NOT_HERE]
    if not there:
        return None
    best = max(each.standing for each in there)
    if best < Standing.RUNS and last in away:
        # What is off here may be a definition left behind, and the VM run where nobody answers.
        return None
    equals = [each for each in there if each.standing is best]
    return max(equals, key=lambda each: (each.node == last, *_told_to_be_there(each)))


def _told_to_be_there(each: Seen) -> tuple[bool, int]:
    """An offline migration copies what was told with the definition: the original names its own node."""
    told = each.told
    return (False, 0) if told is None else (told.node == each.node, told.sequence)


def has_left(state: int, reason: int) -> bool:
    """Whether a domain in this state is off since it migrated to another node. The daemon forgets it as it ends."""
    return (state, reason) == (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED)


def place_text(told: ToldPlace) -> str:
    """The told place as the text of its metadata element."""
    return ET.tostring(
        ET.Element(
            "place",
            {
                "site": told.site,
                "node": told.node,
                "storage": told.storage,
                "kind": told.kind,
                "at": str(told.at_ms),
                "sequence": str(told.sequence),
            },
        ),
        encoding="unicode",
    )


def _metadata(xml: str) -> dict[str, ET.Element]:
    """The metadata elements of a domain that are ours, by their namespaces."""
    if METADATA_URI not in xml:
        return {}
    root = ET.fromstring(xml)  # noqa: S314 - from libvirt, which has made it
    return {
        element.tag[1:].partition("}")[0]: element
        for element in root.findall("metadata/*")
        if element.tag.startswith("{" + METADATA_URI)
    }


def _told(element: ET.Element) -> ToldPlace | None:
    """None where somebody has been at it: the place is then told anew."""
    try:
        return ToldPlace(
            site=element.get("site", ""),
            node=element.get("node", ""),
            storage=element.get("storage", ""),
            kind=MoveKind(element.get("kind", "")),
            at_ms=int(element.get("at", "")),
            sequence=int(element.get("sequence", "")),
        )
    except ValueError:
        return None
