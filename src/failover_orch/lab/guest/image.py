"""The tiny guest's kernel and initramfs: Debian's cloud kernel, busybox, QEMU's real guest agent, a real DHCP client.

Built once, into the user's cache, under a name made of what went into it.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from failover_orch.errors import LabError
from failover_orch.lab.commands import run
from failover_orch.lab.guest import initramfs
from failover_orch.lab.packages import cache_directory, downloaded, kept, locked

__all__ = ["GuestImage", "guest_image"]

ROOT = Path(__file__).with_name("root")
KERNEL_PACKAGE = "linux-image-cloud-amd64"
PROGRAMS = {"qemu-guest-agent": "usr/sbin/qemu-ga", "dhcpcd-base": "usr/sbin/dhcpcd"}
"""The programs of the guest that are not busybox's, by the package that has them."""
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "qemu_fw_cfg", "isofs", "button", "evdev")
"""What the guest loads, with what these stand on."""
DIRECTORIES = ("data", "data2", "dev", "proc", "root", "run", "sys", "tmp", "var/lib/dhcpcd")
LINKS = {"etc/resolv.conf": "/run/resolv.conf", "var/run": "/run"}


@dataclass(frozen=True, slots=True)
class GuestImage:
    """What every tiny guest boots."""

    kernel: Path
    initramfs: Path


def guest_image() -> GuestImage:
    """The image, built when it is not there yet or what goes into it has changed.

    Raises:
        LabError: a package could not be downloaded, or busybox is missing.

    """
    debs = [kept("linux-image-*-cloud-amd64") or downloaded(_kernel_package()), *map(downloaded, PROGRAMS)]
    busybox = shutil.which("busybox")
    if busybox is None:
        raise LabError("busybox is not on the path: apt-get install busybox-static")
    made_of = hashlib.sha256(" ".join(deb.name for deb in debs).encode())
    for path in (Path(__file__), Path(initramfs.__file__), Path(busybox), *_own_files()):
        made_of.update(path.read_bytes())
    home = cache_directory() / "guests" / made_of.hexdigest()[:16]
    home.parent.mkdir(parents=True, exist_ok=True)
    with locked(home.with_name("lock")):
        if not home.is_dir():
            with tempfile.TemporaryDirectory(prefix="new-", dir=home.parent) as temporary:
                made = Path(temporary) / "made"
                made.mkdir()
                _build(made, Path(temporary) / "packages", debs, Path(busybox))
                made.rename(home)
    return GuestImage(kernel=home / "vmlinuz", initramfs=home / "initramfs")


def _build(made: Path, packages: Path, debs: Sequence[Path], busybox: Path) -> None:
    for deb in debs:
        run("dpkg-deb", "--extract", str(deb), str(packages))
    shutil.copyfile(next((packages / "boot").glob("vmlinuz-*")), made / "vmlinuz")
    files = {"bin/busybox": (0o755, busybox.read_bytes()), "etc/passwd": (0o644, b"root::0:0::/root:/bin/sh\n")}
    for path in _own_files():
        files[str(path.relative_to(ROOT))] = (0o755, path.read_bytes())
    for program in (packages / path for path in PROGRAMS.values()):
        for path in (program, *initramfs.libraries(program)):
            files[f"sbin/{path.name}" if path == program else str(path).lstrip("/")] = (0o755, path.read_bytes())
    order = initramfs.modules(next((packages / "lib/modules").iterdir()), MODULES)
    files["modules/order"] = (0o644, "".join(f"{name}\n" for name in order).encode())
    files |= {f"modules/{name}": (0o644, content) for name, content in order.items()}
    ours = {Path(name).name for name in files if name.startswith(("bin/", "sbin/"))}
    applets = (applet for applet in run(str(busybox), "--list").split() if applet not in ours)
    links = LINKS | {f"bin/{applet}": "/bin/busybox" for applet in applets}
    (made / "initramfs").write_bytes(initramfs.archive(DIRECTORIES, files, links))


def _own_files() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*") if path.is_file())


def _kernel_package() -> str:
    """The package with the kernel itself: the one that the metapackage depends on."""
    try:
        said = run("apt-cache", "depends", KERNEL_PACKAGE)
    except LabError:  # there are no lists yet
        run("apt-get", "--quiet=2", "update")
        said = run("apt-cache", "depends", KERNEL_PACKAGE)
    depends = re.search(r"Depends: (linux-image-\S+)", said)
    if depends is None:
        raise LabError(f"apt knows no kernel behind {KERNEL_PACKAGE}: does this machine install from Debian's archive?")
    return depends[1]
