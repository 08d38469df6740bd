"""What is on the VM's disks: read from outside, from files that nobody writes to any more. All functions block."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from failover_orch.demo.vms.virsh import command

__all__ = ["chain_of", "counter_on", "identical", "kept_while_locked", "sound"]

_LOOK_S = 0.01


def chain_of(disk: Path) -> tuple[Path, ...]:
    """A disk's file and those that it stands on, the whole one last."""
    told = json.loads(command("qemu-img", "info", "-U", "--backing-chain", "--output=json", str(disk)))
    return tuple(Path(image["filename"]) for image in told)


def counter_on(disk: Path) -> int:
    """What the guest has counted on a disk with all that it stands on."""
    with tempfile.TemporaryDirectory(prefix="failover-orch-disk-") as directory:
        text = command("debugfs", "-R", "cat /counter", str(_raw(disk, Path(directory)))).strip()
    assert text.isdecimal(), f"{disk} holds no counter but {text!r}"
    return int(text)


def sound(disk: Path) -> bool:
    """Whether the file system on a disk is as one that lost its power at some moment: its journal makes it whole."""
    with tempfile.TemporaryDirectory(prefix="failover-orch-disk-") as directory:
        raw = str(_raw(disk, Path(directory)))
        # The first replays the journal, and says so by 1; the second finds nothing to do.
        subprocess.run(["e2fsck", "-p", raw], capture_output=True, check=False)
        return subprocess.run(["e2fsck", "-f", "-n", raw], capture_output=True, check=False).returncode == 0


def identical(one: Path, another: Path) -> bool:
    """Whether a guest would see the very same on both."""
    done = subprocess.run(
        ["qemu-img", "compare", "-U", str(one), str(another)], capture_output=True, check=False, text=True
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.returncode == 0


def kept_while_locked(
    disk: Path,
    directory: Path,
    given_up: threading.Event,
    *,
    hold: Callable[[], None],
    let_go: Callable[[], None],
) -> Path:
    """Wait until a primary's disk is locked for its planned failover, and keep a copy of it as it is then.

    `hold` sees to it that the failover does not go on meanwhile: later its file is a replica's, and others are merged
    into it.

    Raises:
        AssertionError: that was given up before.

    """
    locked = disk.with_name(f"{disk.name}.locked")
    while not locked.exists():
        assert not given_up.wait(_LOOK_S), f"{disk} was never locked"
    hold()
    try:
        for file in chain_of(locked):
            command("cp", "--sparse=always", str(file), str(directory / file.name))
    finally:
        let_go()
    return directory / locked.name


def _raw(disk: Path, directory: Path) -> Path:
    raw = directory / "raw"
    command("qemu-img", "convert", "-U", "-O", "raw", str(disk), str(raw))
    return raw
