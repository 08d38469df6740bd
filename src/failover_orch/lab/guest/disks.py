"""Disks of tiny guests: qcow2 images of an ext4 file system with what the guest needs in it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from failover_orch.lab.commands import run

__all__ = ["make_configuration_drive", "make_data_disk"]

DISK_MIB = 32


def make_data_disk(path: Path, *, netcfg: str = "", mib: int = DISK_MIB) -> None:
    """Make a qcow2 disk with an ext4 file system whose `netcfg` is the guest's own network configuration.

    A guest's first disk holds that; on each of its disks it counts.
    """
    with tempfile.TemporaryDirectory(prefix=f"{path.name}-", dir=path.parent) as temporary:
        content, raw = Path(temporary) / "content", Path(temporary) / "raw"
        content.mkdir()
        (content / "counter").write_text(f"{0:015d}\n")
        if netcfg:
            (content / "netcfg").write_text(netcfg if netcfg.endswith("\n") else f"{netcfg}\n")
        run(
            "mke2fs",
            "-q",
            "-t",
            "ext4",
            "-E",
            "lazy_itable_init=0,lazy_journal_init=0",
            "-d",
            str(content),
            str(raw),
            f"{mib}M",
        )
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(path))


def make_configuration_drive(path: Path, *, netcfg: str) -> None:
    """Make an ISO image labelled `cidata`, which a guest merges into its configuration as it boots."""
    with tempfile.TemporaryDirectory(prefix=f"{path.name}-", dir=path.parent) as temporary:
        content = Path(temporary) / "content"
        content.mkdir()
        (content / "netcfg").write_text(netcfg)
        run("genisoimage", "-quiet", "-volid", "cidata", "-rational-rock", "-output", str(path), str(content))
