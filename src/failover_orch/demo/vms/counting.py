"""What the VMs' disks say was lost: read from outside, from files that nobody writes to."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from failover_orch.demo.vms.virsh import command
from failover_orch.errors import LabError

__all__ = ["Counted", "after_a_loss", "after_a_planned_failover"]


@dataclass(frozen=True, slots=True)
class Counted:
    """What the guest had counted on its old disk, and on the one it was started from; whether both are the same."""

    before: int
    after: int
    identical: bool


def after_a_planned_failover(old: Path, new: Path) -> Counted:
    """The disk that the VM has left and is a replica's by now, and its disk at the other site. Blocks."""
    # What comes back from the new site lies on top of what the VM left here.
    points = old.parent.glob(f"{old.name}.rp-*")
    left = next((point for point in points if len(_chain_of(point)) == 1), None)
    if left is None:
        raise LabError(f"nothing is left of {old} for a replica to stand on")
    return _counted(left, new)


def after_a_loss(old: Path, new: Path) -> Counted:
    """The disk of a VM whose node has lost power, and its disk at the other site. Blocks."""
    return _counted(old, new)


def _counted(old: Path, new: Path) -> Counted:
    chain = _chain_of(new)
    if len(chain) == 1:
        raise LabError(f"{new} does not stand on a recovery point")
    started_from = chain[1]
    return Counted(_counter_on(old), _counter_on(started_from), _identical(old, started_from))


def _chain_of(disk: Path) -> tuple[Path, ...]:
    """A disk's file and those that it stands on, the whole one last."""
    told = json.loads(command("qemu-img", "info", "-U", "--backing-chain", "--output=json", str(disk)))
    return tuple(Path(image["filename"]) for image in told)


def _counter_on(disk: Path) -> int:
    """What the guest has counted on a disk with all that it stands on."""
    with tempfile.TemporaryDirectory(prefix="failover-orch-disk-") as directory:
        raw = Path(directory) / "raw"
        command("qemu-img", "convert", "-U", "-O", "raw", str(disk), str(raw))
        text = command("debugfs", "-R", "cat /counter", str(raw)).strip()
    if not text.isdecimal():
        raise LabError(f"{disk} holds no counter but {text!r}")
    return int(text)


def _identical(one: Path, other: Path) -> bool:
    try:
        command("qemu-img", "compare", "-U", str(one), str(other))
    except LabError:
        return False
    return True
