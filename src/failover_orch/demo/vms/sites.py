"""The demo's two sites: which nodes they have, and the file of each one's agent."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from failover_orch.demo.vms.machines import Machine
from failover_orch.lab import IpmiBmc, Lab

__all__ = ["AWAY", "HOME", "NODES", "PORT", "REPLICATED_EVERY_S", "write_site_files"]

HOME, AWAY = "primary", "dr"
NODES = {"p1": HOME, "d1": AWAY, "d2": AWAY}
PORT = 8440
"""Where each site's agent takes replication."""
REPLICATED_EVERY_S = 5
_REPORTED_EVERY_S = 1
_EVIDENCE_EVERY_S = 2
_POINTS = 4
_BROKERS = {HOME: "PRI-BROKER", AWAY: "DR-BROKER"}


def write_site_files(
    directory: Path, lab: Lab, machines: Sequence[Machine], bmc: IpmiBmc, password: str
) -> Mapping[str, Path]:
    """Write each site's file and the secrets that it names; returns the files by site."""
    _write_secret(directory / "replication.key", secrets.token_urlsafe(32))
    _write_secret(directory / "bmc.secret", password)
    files = {}
    for site, other in ((HOME, AWAY), (AWAY, HOME)):
        content: dict[str, Any] = {
            "site": site,
            "agent": {"report_every": _REPORTED_EVERY_S, "evidence_every": _EVIDENCE_EVERY_S},
            "hypervisor": _hypervisor(lab, site, other),
        }
        if site == HOME:
            content["hypervisor"]["replicate"] = [_replicated(machine) for machine in machines]
        if site == AWAY:
            content["fences"] = [_fence(node, bmc) for node in NODES if NODES[node] == HOME]
        files[site] = directory / f"{site}.yaml"
        files[site].write_text(yaml.safe_dump(content, sort_keys=False, width=120))
    return files


def _hypervisor(lab: Lab, site: str, other: str) -> dict[str, object]:
    nodes = [node for node in lab.nodes.values() if node.site == site]
    return {
        "kind": "libvirt",
        "cluster": f"{site}-cluster",
        "broker": _BROKERS[site],
        "nodes": [
            {"name": node.name, "uri": node.tcp_uri, "run": list(node.run), "storage": str(node.storage)}
            for node in nodes
        ],
        "networks": {f"{site}-lan": nodes[0].bridge},
        "test_networks": {f"isolated-{site}": nodes[0].test_bridge},
        "listen": f"{lab.site_address(site)}:{PORT}",
        "key_file": "replication.key",
        "plaintext": True,  # the lab's networks are this machine's own
        "inject": "fw_cfg",
        "answers": "ping",
        "peers": {
            other: {
                "nodes": {name: f"http://{lab.site_address(other)}:{PORT}" for name in NODES if NODES[name] == other}
            }
        },
    }


def _replicated(machine: Machine) -> Mapping[str, object]:
    return {
        "vm": machine.vm_id,
        "id": machine.vm_id,
        "to": machine.away,
        "node": machine.replica_node,
        "every": REPLICATED_EVERY_S,
        "points": _POINTS,
        "system": machine.system,
        "application": machine.application,
    }


def _fence(node: str, bmc: IpmiBmc) -> Mapping[str, object]:
    return {
        "site": NODES[node],
        "node": node,
        "agent": "ipmi",
        "host": bmc.host,
        "port": bmc.port,
        "user": "admin",
        "password_file": "bmc.secret",
    }


def _write_secret(path: Path, secret: str) -> None:
    path.touch(mode=0o600)
    path.write_text(f"{secret}\n")
