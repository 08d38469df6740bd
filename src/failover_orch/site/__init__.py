"""The site agent: does what step commands say on its site's hypervisors, and turns what they tell into events.

And the witness, which looks at sites from outside.
"""

from __future__ import annotations

from failover_orch.site.agent import AgentOptions, SiteAgent
from failover_orch.site.site_file import SimulatedSite, SiteFile, load_site_file
from failover_orch.site.witness import Watched, Witness

__all__ = [
    "AgentOptions",
    "SimulatedSite",
    "SiteAgent",
    "SiteFile",
    "Watched",
    "Witness",
    "load_site_file",
]
