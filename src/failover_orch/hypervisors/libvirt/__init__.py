"""What libvirt hosts report, in this project's words. Pure: nothing here talks to a host."""

from __future__ import annotations

from failover_orch.hypervisors.libvirt.events import HostEvent, moves, read_events

__all__ = ["HostEvent", "moves", "read_events"]
