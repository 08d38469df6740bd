"""`failover-orch serve`: the HTTP service."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from failover_orch import service, telemetry
from failover_orch.cli.access import codec_for
from failover_orch.cli.common import Bootstrap, reported, settings
from failover_orch.config import Settings
from failover_orch.errors import ConfigError
from failover_orch.service.access import KafkaGate, ServiceFile, is_loopback, load_service_file

__all__ = ["serve"]

log = telemetry.logger(__name__)


def serve(
    config_file: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Service file: address, TLS, who is who; else API tokens alone."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for all.", show_default="as the file says, or 127.0.0.1")
    ] = "",
    port: Annotated[
        int,
        typer.Option(
            min=-1, max=65_535, help="Port to listen on; 0 for any free one.", show_default="as the file says, or 8080"
        ),
    ] = -1,
    open_reading: Annotated[
        bool, typer.Option("--open-reading", help="Let anybody on this machine look, without an identity: for demos.")
    ] = False,
    stale_after: Annotated[
        float, typer.Option(min=1, max=3_600, metavar="SECONDS", help="How old knowledge may be to answer from it.")
    ] = 5,
    bootstrap: Bootstrap = None,
) -> None:
    """Answer over HTTP where VMs are and what failovers do, and take commands, until SIGTERM or Ctrl-C.

    Until it has read all that Kafka holds it answers 503. It waits for a Kafka that is not there yet.
    """
    with reported():
        config = settings(bootstrap)
        file = load_service_file(config_file) if config_file is not None else ServiceFile()
        file = replace(file, host=host or file.host, port=file.port if port < 0 else port, open_reading=open_reading)
        if open_reading and not is_loopback(file.host):
            raise ConfigError(
                f"--open-reading is for loopback addresses, and {file.host} is none: leave one of them out"
            )
        if open_reading and file.proxies:
            raise ConfigError("--open-reading is for this machine, and a proxy lets others in: leave one of them out")
        telemetry.start("service", config)
        if file.tls is None and not is_loopback(file.host) and not file.proxies:
            log.warning("tokens come in the clear: give tls in a service file, or a proxy", host=file.host)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_serve(config, file, round(stale_after * 1_000)))
        finally:
            telemetry.stop()


async def _serve(config: Settings, file: ServiceFile, confirmed_within_ms: int) -> None:
    codec = codec_for(config)
    feed = service.Feed(
        config.bootstrap,
        names=config.names,
        codec=codec,
        app_id=config.app_id,
        confirmed_within_ms=confirmed_within_ms,
    )
    commands = service.KafkaCommands(config, codec)
    gate = KafkaGate(file, config.bootstrap, names=config.names, codec=codec, publish=commands.publish)
    await service.serve(feed, gate, commands, file=file, listening=_say)


def _say(address: str) -> None:
    typer.echo(f"listening on {address}")
