"""The tables at the end of the demo of the real VMs."""

from __future__ import annotations

from failover_orch.demo.screen import Screen
from failover_orch.demo.tables import coloured, routes_of
from failover_orch.demo.vms.outcome import Ending, Moved

__all__ = ["addresses", "failovers", "routes"]


def routes(screen: Screen, ending: Ending) -> None:
    """Where every VM is."""
    routes_of(screen, ending.vms)


def addresses(screen: Screen, ending: Ending) -> None:
    """Every address of every VM, and whether it answers a ping from the third place."""
    rows = [
        (
            ping.vm_id,
            ping.site,
            ping.address,
            "answers" if ping.answered else "silent",
            "" if ping.answered is ping.wanted else "[red]NOT AS IT OUGHT TO[/]",
        )
        for ping in ending.pings
    ]
    screen.table("Addresses, pinged from the third place", ("VM", "at", "address", "ping", ""), rows)


def failovers(screen: Screen, ending: Ending) -> None:
    """Every failover of a VM: counters, and seconds without service."""
    rows = [
        (
            moved.vm_id,
            moved.run.kind.lower(),
            f"{moved.from_site} to {moved.to_site}",
            coloured(moved.run.state),
            f"{(moved.run.finished_at_ms - moved.run.started_at_ms) / 1000:.1f}",
            str(moved.before),
            str(moved.after),
            str(moved.lost),
            _pending(moved),
            "yes" if moved.identical else "no",
            f"{moved.without_service_ms / 1000:.1f}",
        )
        for moved in ending.moved
    ]
    columns = (
        "VM",
        "kind",
        "way",
        "ended",
        "run, seconds",
        "counter before",
        "after",
        "lost",
        "last told as pending",
        "disks identical",
        "seconds without service",
    )
    screen.table("Failovers", columns, rows)


def _pending(moved: Moved) -> str:
    if moved.pending < 0:
        return ""
    return f"{moved.pending} (+-{moved.leeway}), {moved.pending_bytes / 1024:.0f} KiB"
