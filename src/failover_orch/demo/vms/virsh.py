"""What is done to nodes by hand, as whoever runs them does it: with virsh."""

from __future__ import annotations

import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

from failover_orch.errors import LabError
from failover_orch.lab import LabNode

__all__ = ["command", "define_and_start", "disk_of", "migrate_live", "move_off", "running"]

_COMMAND_S = 60.0


def command(*words: str) -> str:
    """Run a command to its end and return what it wrote. Blocks.

    Raises:
        LabError: it failed; with the last thing it said.

    """
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_COMMAND_S)
    if done.returncode != 0:
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise LabError(f"`{' '.join(words)}` failed: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout


def _virsh(node: LabNode, *words: str) -> str:
    return command("virsh", "--quiet", "--connect", node.uri, *words)


def define_and_start(node: LabNode, xml: str) -> None:
    """Define a domain that runs from now on."""
    file = node.directory / f"{ET.fromstring(xml).findtext('name')}.xml"  # noqa: S314 - written by the lab itself
    file.write_text(xml)
    _virsh(node, "define", str(file))
    _virsh(node, "start", file.stem)


def migrate_live(domain: str, source: LabNode, target: LabNode) -> None:
    """Move a VM that runs to another node of its site, while it runs."""
    # "unsafe": libvirt cannot know that the nodes share their storage.
    flags = ("--live", "--persistent", "--undefinesource", "--unsafe")
    _virsh(source, "migrate", *flags, domain, target.uri)


def move_off(domain: str, source: LabNode, target: LabNode) -> None:
    """Move a VM that is off to another node of its site."""
    _virsh(source, "migrate", "--offline", "--persistent", "--undefinesource", domain, target.uri)


def running(node: LabNode) -> frozenset[str]:
    """The names of the domains that run on a node."""
    return frozenset(_virsh(node, "list", "--name", "--state-running").split())


def disk_of(node: LabNode, domain: str) -> Path:
    """The file that a domain's first disk is to be."""
    xml = ET.fromstring(_virsh(node, "dumpxml", "--inactive", domain))  # noqa: S314 - from libvirt
    source = xml.find("./devices/disk/source")
    if source is None:
        raise LabError(f"{domain} on {node.name} has no disk")
    return Path(source.get("file", ""))
