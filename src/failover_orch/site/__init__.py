"""The site agent: does what step commands say on its site's hypervisors, and turns what they tell into events."""

from __future__ import annotations

from failover_orch.site.agent import AgentOptions, SiteAgent

__all__ = ["AgentOptions", "SiteAgent"]
