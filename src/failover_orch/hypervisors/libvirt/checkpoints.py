"""Checkpoints and backups of a domain: which of its blocks have changed since a cycle, and a copy of those.

Called in a thread, on a domain; they block. A checkpoint `cp-<n>` is a bitmap of that name in each disk, which notes
what is written from cycle n on, and libvirt's description of it. A live migration takes the bitmaps along and leaves
the descriptions behind; a QEMU that was killed leaves descriptions of bitmaps that are lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from xml.etree import ElementTree as ET

import libvirt

from failover_orch.errors import StepFailed

__all__ = [
    "Backup",
    "Progress",
    "abort",
    "begin",
    "begin_frozen",
    "drop",
    "forget_all",
    "pending_bytes",
    "progress",
    "standing",
    "thaw",
]

_PREFIX = "cp-"
_AGENT_S = 5
_THAWS = 3
_DESCRIBE_AGAIN = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE | libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE


@dataclass(frozen=True, slots=True)
class Backup:
    """What is to be copied: the disks by their targets, each into an empty image that was made for it.

    libvirt would make these files too, by a job of QEMU's. Whoever asks QEMU for its block nodes meanwhile (`domstats`
    does, and the size of a checkpoint) makes it abort, with the VM: QEMU 7.2 asserts that no image is half made.

    `base` is the cycle since which changes count, None for everything; `cycle` the one that begins at that moment.
    `others`: the targets of all other drives, which libvirt would else take along.
    """

    files: Mapping[str, str]
    others: Sequence[str]
    base: int | None
    cycle: int


class Progress(StrEnum):
    """How a backup goes. LOST: nobody knows what came of it."""

    UNDER_WAY = "UNDER_WAY"
    DONE = "DONE"
    LOST = "LOST"


def standing(
    domain: libvirt.virDomain, targets: Iterable[str], others: Iterable[str], cycles: Iterable[int]
) -> set[int]:
    """The cycles that the domain has checkpoints of.

    Of `cycles`, the first is the one that has to be there: if it is not, the VM came by a migration, and whichever of
    them have bitmaps are described again.
    """
    have = _cycles(domain)
    wanted = list(dict.fromkeys(cycles))
    if wanted[0] in have:
        return have
    parent: int | None = None
    for cycle in sorted(wanted):
        if cycle not in have:
            try:
                domain.checkpointCreateXML(_checkpoint(cycle, targets, others, parent=parent), _DESCRIBE_AGAIN)
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_CHECKPOINT_INCONSISTENT:
                    raise
                continue
        parent = cycle
    return _cycles(domain)


def begin(domain: libvirt.virDomain, backup: Backup) -> bool:
    """Begin the backup, with a checkpoint of the same moment. False: what has changed since the base is not known."""
    # What an earlier job of this domain has come to would be taken for this one's.
    with suppress(libvirt.libvirtError):
        domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
    try:
        domain.backupBegin(
            _backup(backup),
            _checkpoint(backup.cycle, backup.files, backup.others),
            libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL,
        )
    except libvirt.libvirtError as error:
        if backup.base is not None and error.get_error_code() == libvirt.VIR_ERR_CHECKPOINT_INCONSISTENT:
            return False
        raise
    return True


def begin_frozen(domain: libvirt.virDomain, backup: Backup) -> tuple[bool, str]:
    """As `begin`, with the guest's file systems frozen at that moment. Also why they could not be, empty if they were.

    One function, for one thread: whoever waits for it may give up, but the guest is thawed all the same.
    """
    why = ""
    try:
        domain.agentSetResponseTimeout(_AGENT_S)
        domain.fsFreeze()
    except libvirt.libvirtError as error:
        why = str(error)
    try:
        return begin(domain, backup), why
    finally:
        thaw(domain)


def thaw(domain: libvirt.virDomain) -> None:
    """Have the guest's file systems not be frozen. A guest whose agent is silent is left as it is."""
    for _ in range(_THAWS):
        with suppress(libvirt.libvirtError):
            domain.agentSetResponseTimeout(_AGENT_S)
            domain.fsThaw()
            return


def progress(domain: libvirt.virDomain) -> tuple[Progress, int]:
    """How the backup that was begun goes, and the bytes that it has copied.

    Raises:
        StepFailed: it failed.

    """
    current = domain.jobStats()
    if current.get("type", libvirt.VIR_DOMAIN_JOB_NONE) != libvirt.VIR_DOMAIN_JOB_NONE:
        return Progress.UNDER_WAY, int(current.get("disk_processed", 0))
    ended = domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
    if ended.get("operation") != libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP:
        return Progress.LOST, 0
    if not ended.get("success"):
        raise StepFailed(f"the backup of {domain.name()} failed: {ended.get('errmsg') or 'libvirt does not say why'}")
    return Progress.DONE, int(ended.get("disk_processed", 0))


def abort(domain: libvirt.virDomain) -> None:
    """Have no backup under way. Any other job goes on."""
    with suppress(libvirt.libvirtError):  # it has just ended, or the domain has
        if domain.jobStats().get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP:
            domain.abortJob()


def drop(domain: libvirt.virDomain, cycle: int) -> None:
    """Remove a checkpoint from a domain that is on. What only it has noted goes to the one before it."""
    try:
        checkpoint = domain.checkpointLookupByName(f"{_PREFIX}{cycle}")
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT:
            return
        raise
    try:
        checkpoint.delete()
    except libvirt.libvirtError:
        # Its bitmap was lost with its QEMU; then all that is left is the description.
        checkpoint.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)


def forget_all(domain: libvirt.virDomain) -> None:
    """Forget the descriptions of all checkpoints; the bitmaps stay in the disks."""
    for checkpoint in domain.listAllCheckpoints():
        checkpoint.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)


def pending_bytes(domain: libvirt.virDomain, targets: Sequence[str], others: Sequence[str], cycle: int) -> int | None:
    """What was written since a cycle, of a domain that is on; None where nobody knows."""
    if cycle not in standing(domain, targets, others, (cycle,)):
        return None
    described = domain.checkpointLookupByName(f"{_PREFIX}{cycle}").getXMLDesc(
        libvirt.VIR_DOMAIN_CHECKPOINT_XML_SIZE | libvirt.VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN
    )
    root = ET.fromstring(described)  # noqa: S314 - from libvirt, which has made it
    sizes = [disk.get("size") for disk in root.iterfind("disks/disk") if disk.get("checkpoint") == "bitmap"]
    return None if not sizes or None in sizes else sum(int(size or 0) for size in sizes)


def _cycles(domain: libvirt.virDomain) -> set[int]:
    names = (checkpoint.getName() for checkpoint in domain.listAllCheckpoints())
    return {int(name.removeprefix(_PREFIX)) for name in names if name.removeprefix(_PREFIX).isdecimal()}


def _checkpoint(cycle: int, targets: Iterable[str], others: Iterable[str], *, parent: int | None = None) -> str:
    root = ET.Element("domaincheckpoint")
    ET.SubElement(root, "name").text = f"{_PREFIX}{cycle}"
    if parent is not None:
        ET.SubElement(ET.SubElement(root, "parent"), "name").text = f"{_PREFIX}{parent}"
    # Asked for where a checkpoint is described again; nobody looks at it.
    ET.SubElement(root, "creationTime").text = "1"
    disks = ET.SubElement(root, "disks")
    for target in targets:
        ET.SubElement(disks, "disk", {"name": target, "checkpoint": "bitmap", "bitmap": f"{_PREFIX}{cycle}"})
    for target in others:
        ET.SubElement(disks, "disk", {"name": target, "checkpoint": "no"})
    return ET.tostring(root, encoding="unicode")


def _backup(backup: Backup) -> str:
    root = ET.Element("domainbackup", {"mode": "push"})
    if backup.base is not None:
        ET.SubElement(root, "incremental").text = f"{_PREFIX}{backup.base}"
    disks = ET.SubElement(root, "disks")
    for target, file in backup.files.items():
        disk = ET.SubElement(disks, "disk", {"name": target, "backup": "yes", "type": "file"})
        ET.SubElement(disk, "driver", {"type": "qcow2"})
        ET.SubElement(disk, "target", {"file": file})
    for target in backup.others:
        ET.SubElement(disks, "disk", {"name": target, "backup": "no"})
    return ET.tostring(root, encoding="unicode")
