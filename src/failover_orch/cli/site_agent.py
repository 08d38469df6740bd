"""`failover-orch site-agent`: act and observe, next to a site's hypervisors."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from failover_orch import telemetry
from failover_orch.cli.access import codec_for
from failover_orch.cli.common import Bootstrap, reported, settings
from failover_orch.cli.world import create_world
from failover_orch.config import Settings
from failover_orch.hypervisors import Hypervisor
from failover_orch.hypervisors.simulated import SimulatedHypervisor
from failover_orch.site import AgentOptions, SiteAgent

__all__ = ["site_agent"]


def site_agent(
    site: Annotated[str, typer.Option(help="The site whose hypervisors it acts on.", show_default=False)],
    world: Annotated[
        Path, typer.Option(help="File of the simulated world its hypervisors are in.", dir_okay=False)
    ] = Path("world.db"),
    topology: Annotated[
        Path | None,
        typer.Option(help="Topology file to create the world from, if it does not exist.", show_default=False),
    ] = None,
    report_every: Annotated[
        float, typer.Option(min=0, help="Seconds between health reports of a VM; 0: its replication frequency.")
    ] = 0,
    per_node: Annotated[int, typer.Option(min=1, help="Steps carried out on one node at a time.")] = 4,
    per_site: Annotated[int, typer.Option(min=0, help="Steps carried out at a time in all; 0: no limit.")] = 0,
    scripts: Annotated[
        list[Path] | None,
        typer.Option(
            "--scripts",
            metavar="DIR",
            help="A directory of scripts that plans may run; once for each. None: plans run no scripts here.",
            show_default=False,
        ),
    ] = None,
    allow_url: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-url",
            metavar="PREFIX",
            help="URLs that plans may call: scheme, host and whole parts of the path; once for each. None: no calls.",
            show_default=False,
        ),
    ] = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Run a site agent: it carries out step commands, and reports moves, health, inventory and that its site is there.

    Any number may run for one site; they share its commands. Ends on SIGTERM or Ctrl-C.
    """
    with reported():
        configuration = settings(bootstrap)
        if topology is not None and not world.exists():
            # Agents of two sites may be started at once, each with the topology: the first one's world is the world.
            with suppress(FileExistsError):
                create_world(world, topology).close()
        hypervisor = SimulatedHypervisor(world, site)
        options = AgentOptions(
            report_every=report_every,
            per_node=per_node,
            per_site=per_site,
            scripts=tuple(scripts or ()),
            urls=tuple(allow_url or ()),
            session_timeout=configuration.session_timeout,
        )
        telemetry.start("site-agent", configuration)
        try:
            asyncio.run(_run(hypervisor, configuration, options))
        finally:
            telemetry.stop()


async def _run(hypervisor: Hypervisor, configuration: Settings, options: AgentOptions) -> None:
    agent = SiteAgent(
        hypervisor,
        codec_for(configuration),
        bootstrap=configuration.bootstrap,
        names=configuration.names,
        partitions=configuration.partitions,
        app_id=configuration.app_id,
        options=options,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    await agent.run()
