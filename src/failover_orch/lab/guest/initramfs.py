"""What the kernel unpacks as a tiny guest's root file system: an archive of files, modules and libraries."""

from __future__ import annotations

import lzma
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from failover_orch.errors import LabError
from failover_orch.lab.commands import run

__all__ = ["archive", "libraries", "modules"]

DIRECTORY = stat.S_IFDIR | 0o755
FILE = stat.S_IFREG
LINK = stat.S_IFLNK | 0o777
SIGNATURE = b"~Module signature appended~\n"
SIGNATURE_HEADER = 12


def archive(directories: Iterable[str], files: Mapping[str, tuple[int, bytes]], links: Mapping[str, str]) -> bytes:
    """A cpio archive (newc) of these paths. `files` gives permissions and content, `links` where each one points.

    It is not compressed: the guest's processor is an emulated one.
    """
    named = {*(Path(name) for name in directories)}
    for path in [*named, *map(Path, files), *map(Path, links)]:
        named.update(path.parents)
    # The kernel makes no directory by itself: each comes before what is in it.
    entries = [(str(path), DIRECTORY, b"") for path in sorted(named - {Path()})]
    entries += [(name, FILE | permissions, content) for name, (permissions, content) in files.items()]
    entries += [(name, LINK, target.encode()) for name, target in links.items()]
    return b"".join(_entry(number, *entry) for number, entry in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1))


def _entry(number: int, name: str, mode: int, content: bytes) -> bytes:
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name.encode()) + 1, 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return header + b"\0" * (-len(header) % 4) + content + b"\0" * (-len(content) % 4)


def modules(tree: Path, wanted: Sequence[str]) -> dict[str, bytes]:
    """The wanted kernel modules below a directory, each after those it stands on.

    One that is not there is built into the kernel.
    """
    found = {re.sub(r"\.ko.*", "", path.name).replace("-", "_"): path for path in tree.rglob("*.ko*")}
    order: dict[str, bytes] = {}

    def load(name: str) -> None:
        if name in order or name not in found:
            return
        content = found[name].read_bytes()
        if found[name].suffix == ".xz":
            content = lzma.decompress(content)
        depends = re.search(rb"(?:^|\0)depends=([^\0]*)\0", content)
        for other in (depends[1].decode() if depends else "").split(","):
            load(other.replace("-", "_"))
        order[name] = _unsigned(content)

    for name in wanted:
        load(name)
    return order


def _unsigned(module: bytes) -> bytes:
    """A module without its signature: an emulated processor takes long to check it."""
    if not module.endswith(SIGNATURE):
        return module
    end = len(module) - len(SIGNATURE)
    length = int.from_bytes(module[end - 4 : end], "big")
    return module[: end - SIGNATURE_HEADER - length]


def libraries(program: Path) -> list[Path]:
    """The shared libraries of a program, and its loader, as this machine has them.

    Raises:
        LabError: one is missing.

    """
    listed = run("ldd", str(program))
    if "not found" in listed:
        raise LabError(f"libraries of {program.name} are missing on this machine: apt-get install qemu-system-x86")
    return [Path(match) for match in re.findall(r"(/\S+) \(0x", listed)]
