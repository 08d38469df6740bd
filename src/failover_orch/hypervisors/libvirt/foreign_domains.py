"""Whether a domain that came from another site may be defined on a node of ours: see `foreign_xml` for the rules."""

from __future__ import annotations

from collections.abc import Collection

from failover_orch.errors import StepRefused
from failover_orch.hypervisors.libvirt.domain_xml import Description, describe
from failover_orch.hypervisors.libvirt.foreign_xml import boot_files, objections, read_foreign
from failover_orch.hypervisors.libvirt.nodes import Node
from failover_orch.hypervisors.libvirt.xml_elements import parsed

__all__ = ["described", "require_harmless"]

_NOT_FOR_ALL = (
    'for file; do case $file in /*) found=$(find -L "$file" -maxdepth 0 -type f -perm -o=r 2>/dev/null);; *) found=;; '
    'esac; [ -n "$found" ] || printf "%s\\n" "$file"; done'
)
"""Prints those of its arguments that are not a file which everybody may read."""


def described(vm_id: str, xml: str) -> Description:
    """What another site's XML says of its VM.

    Raises:
        StepRefused: the VM has a name that leads out of the directory of its disks.
        ValueError: it is no XML that can be looked at.

    """
    if not vm_id or vm_id.startswith("."):
        raise StepRefused(f"a VM cannot be called {vm_id!r}: its disks would not lie in a directory of their own")
    read_foreign(xml)
    return describe(xml)


async def require_harmless(vm_id: str, xml: str, paths: Collection[str], node: Node) -> None:
    """See that a replica's domain asks nothing of the node that is not for a guest to have.

    `paths`: of its own disks.

    Raises:
        StepRefused: it does. Each objection has the number of its rule.

    """
    domain = parsed(xml)
    found = list(objections(domain, paths))
    if files := boot_files(domain):
        # libvirt would open them as root, and so must not be asked for what is not everybody's.
        closed = (await node.run("sh", "-c", _NOT_FOR_ALL, "sh", *files)).decode(errors="replace").splitlines()
        found += [f"X11 it boots from {name!r}, which is no file there that everybody may read" for name in closed]
    if found:
        raise StepRefused(
            f"{vm_id} cannot be replicated to {node.name}: {'; '.join(found)}: take that out of the VM until its "
            "replica is made, and give the replica what it needs by hand there"
        )
