"""A site agent's file: one YAML file that says which hypervisors, which credentials, which fences, and how it works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from failover_orch.errors import ConfigError, SiteFileError
from failover_orch.fencing import FenceSettings
from failover_orch.hypervisors.libvirt import LibvirtSite
from failover_orch.site.agent import AgentOptions
from failover_orch.site.allowed import Allowed
from failover_orch.site.site_file_fences import FENCE_KEYS, read_fences
from failover_orch.site.site_file_libvirt import LIBVIRT_KEYS, read_libvirt
from failover_orch.site.site_file_values import ANY_NAME, Here
from failover_orch.yaml_reading import IDENTIFIER, Entry, Notes, read_file

if TYPE_CHECKING:
    from failover_orch.hypervisors.hyperv import HyperVSite

__all__ = ["SimulatedSite", "SiteFile", "load_site_file"]

ROOT_KEYS = ("site", "agent", "hypervisor", "fences")
AGENT_KEYS = (
    "per_node",
    "per_site",
    "report_every",
    "evidence_every",
    "settings_every",
    "scripts",
    "allow_urls",
)
SIMULATED_KEYS = ("kind", "world", "topology")

_MAX_STEPS = 1_000
_MAX_SECONDS = 86_400


class _Kind(StrEnum):
    LIBVIRT = "libvirt"
    HYPERV = "hyperv"
    SIMULATED = "simulated"


@dataclass(frozen=True, slots=True)
class SimulatedSite:
    """A site of a simulated world. `topology`: what the world is made of, if its file is not there yet."""

    site: str
    world: Path
    topology: Path | None = None


@dataclass(frozen=True, slots=True)
class SiteFile:
    """What a site file says."""

    site: str
    agent: AgentOptions
    hypervisor: LibvirtSite | HyperVSite | SimulatedSite
    fences: tuple[FenceSettings, ...] = ()


def load_site_file(path: str | Path) -> SiteFile:
    """Read a site file. Paths in it begin at its directory; secrets are read, or looked at, right away.

    Raises:
        SiteFileError: the file cannot be read or has mistakes; every one of them is listed.

    """
    directory = Path(path).absolute().parent
    return read_file(
        path,
        keys=ROOT_KEYS,
        expected="site and hypervisor",
        make=lambda root, notes: _read(root, directory, notes),
        error=SiteFileError,
    )


def _read(root: Entry, directory: Path, notes: Notes) -> SiteFile | None:
    here = Here(root.text("site", pattern=IDENTIFIER), directory)
    agent = _agent(root, here)
    hypervisor = _hypervisor(root, here)
    peers = None if hypervisor is None or notes.mistakes else _nodes_of_peers(hypervisor)
    fences = read_fences(root.entries("fences", "node", FENCE_KEYS), here, peers)
    return None if hypervisor is None else SiteFile(here.site, agent, hypervisor, fences)


def _agent(root: Entry, here: Here) -> AgentOptions:
    entry = root.entry("agent", AGENT_KEYS)
    default = AgentOptions()
    if entry is None:
        return default
    scripts = [(line, here.directory / text) for line, text in entry.texts("scripts", expected="a list of directories")]
    for line, directory in scripts:
        if not directory.is_dir():
            entry.mistake("scripts", f"{str(directory)!r} is no directory that is there", line=line)
    urls = entry.texts("allow_urls", expected="a list of URL prefixes")
    for line, text in urls:
        try:
            Allowed((), (text,))
        except ConfigError:
            expected = "scheme, host and path, such as https://hooks.example/dr"
            entry.mistake("allow_urls", f"is {text!r}; expected {expected}", line=line)
    return AgentOptions(
        report_every=entry.number("report_every", 0, _MAX_SECONDS, default=default.report_every),
        per_node=entry.integer("per_node", 1, _MAX_STEPS, default=default.per_node),
        per_site=entry.integer("per_site", 0, _MAX_STEPS, default=default.per_site),
        scripts=tuple(directory for _, directory in scripts),
        urls=tuple(text for _, text in urls),
        evidence_every=entry.number("evidence_every", 0, _MAX_SECONDS, default=default.evidence_every),
        settings_every=entry.number("settings_every", 0, _MAX_SECONDS, default=default.settings_every),
    )


def _hypervisor(root: Entry, here: Here) -> LibvirtSite | HyperVSite | SimulatedSite | None:
    kind = root.glance("hypervisor", "kind")
    if kind == _Kind.LIBVIRT:
        entry = root.entry("hypervisor", LIBVIRT_KEYS)
        return None if entry is None else read_libvirt(entry, here)
    if kind == _Kind.HYPERV:
        # Only who has Hyper-V needs what its driver needs.
        from failover_orch.site.site_file_hyperv import HYPERV_KEYS, read_hyperv  # noqa: PLC0415

        entry = root.entry("hypervisor", HYPERV_KEYS)
        return None if entry is None else read_hyperv(entry, here)
    if kind == _Kind.SIMULATED:
        entry = root.entry("hypervisor", SIMULATED_KEYS)
        return None if entry is None else _simulated(entry, here)
    entry = root.entry("hypervisor", ANY_NAME, required=True)
    if entry is not None:
        entry.choice("kind", _Kind, _Kind.LIBVIRT, required=True)
    return None


def _simulated(entry: Entry, here: Here) -> SimulatedSite:
    world = here.path(entry, "world") or here.directory
    return SimulatedSite(here.site, world, here.file(entry, "topology", required=False))


def _nodes_of_peers(hypervisor: LibvirtSite | HyperVSite | SimulatedSite) -> Mapping[str, Sequence[str]] | None:
    """The nodes of each other site; None where the file does not say."""
    if isinstance(hypervisor, SimulatedSite):
        return None
    if isinstance(hypervisor, LibvirtSite):
        return {peer.site: list(peer.nodes) for peer in hypervisor.peers} or None
    return {peer.site: [node.name for node in peer.nodes] for peer in hypervisor.peers} or None
