"""`failover-orch site-agent`: act and observe, next to a site's hypervisors."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import signal
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from pathlib import Path
from typing import Annotated, cast

import typer

from failover_orch import telemetry
from failover_orch.cli.access import codec_for
from failover_orch.cli.common import Bootstrap, reported, settings
from failover_orch.cli.world import create_world
from failover_orch.config import Settings
from failover_orch.errors import ConfigError
from failover_orch.fencing import Fences
from failover_orch.hypervisors import Hypervisor
from failover_orch.hypervisors.libvirt import LibvirtSite
from failover_orch.hypervisors.simulated import SimulatedHypervisor
from failover_orch.site import AgentOptions, SimulatedSite, SiteAgent, SiteFile, load_site_file

__all__ = ["site_agent"]

_DRIVERS = "failover_orch.hypervisors"
_BESIDE_CONFIG = ("config", "bootstrap")


def site_agent(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            help="The site file: hypervisors, credentials, fences and how the agent works. Instead of all else here.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    site: Annotated[
        str, typer.Option(help="The site of a simulated world whose hypervisors it acts on.", show_default=False)
    ] = "",
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
        if config is not None:
            _refuse_beside_config(context)
            file = load_site_file(config)
        else:
            if not site:
                raise ConfigError("which site? Give --config FILE, or --site of a simulated world")
            options = AgentOptions(
                report_every=report_every,
                per_node=per_node,
                per_site=per_site,
                scripts=tuple(scripts or ()),
                urls=tuple(allow_url or ()),
            )
            file = SiteFile(site, options, SimulatedSite(site, world, topology))
        configuration = settings(bootstrap)
        hypervisor = _hypervisor(file)
        options = dataclasses.replace(file.agent, session_timeout=configuration.session_timeout)
        telemetry.start("site-agent", configuration)
        try:
            asyncio.run(_run(hypervisor, configuration, options))
        finally:
            telemetry.stop()


def _refuse_beside_config(context: typer.Context) -> None:
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name and parameter.name not in _BESIDE_CONFIG and _is_given(context, parameter.name)
    ]
    if given:
        raise ConfigError(f"{', '.join(given)} beside --config: say it in the site file, or leave --config out")


def _is_given(context: typer.Context, parameter: str) -> bool:
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


def _hypervisor(file: SiteFile) -> AbstractAsyncContextManager[Hypervisor]:
    """The hypervisor of a site file, still to be opened. The driver of a kind is loaded where that kind is used."""
    if isinstance(file.hypervisor, SimulatedSite):
        return nullcontext(_simulated(file.hypervisor))
    if isinstance(file.hypervisor, LibvirtSite):
        module, name = f"{_DRIVERS}.libvirt.hypervisor", "LibvirtHypervisor"
        install = "pip install libvirt-python, of the version of the nodes' libvirt (it needs libvirt's headers)"
    else:
        module, name = f"{_DRIVERS}.hyperv.hypervisor", "HyperVHypervisor"
        install = "pip install pypsrp"
    try:
        driver = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("failover_orch"):
            raise
        raise ConfigError(
            f"the driver of this kind of hypervisor needs {error.name}, which is not installed here: {install}"
        ) from None
    return cast("AbstractAsyncContextManager[Hypervisor]", driver(file.hypervisor, Fences.of(file.fences)))


def _simulated(settings: SimulatedSite) -> SimulatedHypervisor:
    if settings.topology is not None and not settings.world.exists():
        # Agents of two sites may be started at once, each with the topology: the first one's world is the world.
        with suppress(FileExistsError):
            create_world(settings.world, settings.topology).close()
    return SimulatedHypervisor(settings.world, settings.site)


async def _run(opened: AbstractAsyncContextManager[Hypervisor], configuration: Settings, options: AgentOptions) -> None:
    opening = asyncio.current_task()
    agents: list[SiteAgent] = []

    def stop() -> None:
        # While the hypervisors are opened there is nothing yet to bring to its end.
        if agents:
            agents[0].stop()
        elif opening is not None:
            opening.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        async with opened as hypervisor:
            agents.append(
                SiteAgent(
                    hypervisor,
                    codec_for(configuration),
                    bootstrap=configuration.bootstrap,
                    names=configuration.names,
                    partitions=configuration.partitions,
                    app_id=configuration.app_id,
                    options=options,
                )
            )
            await agents[0].run()
    except asyncio.CancelledError:
        if agents:
            raise
