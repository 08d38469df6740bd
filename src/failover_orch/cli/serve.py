"""`failover-orch serve`: the HTTP service."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from failover_orch import service, telemetry
from failover_orch.cli.access import codec_for
from failover_orch.cli.common import Bootstrap, reported, settings

__all__ = ["serve"]


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 for any free one.")] = 8080,
    bootstrap: Bootstrap = None,
) -> None:
    """Answer over HTTP where VMs are and what failovers have done, read only, until SIGTERM or Ctrl-C.

    Until it has read all that Kafka holds it answers 503. It waits for a Kafka that is not there yet.
    """
    with reported():
        config = settings(bootstrap)
        telemetry.start("service", config)
        feed = service.Feed(config.bootstrap, names=config.names, codec=codec_for(config))
        try:
            asyncio.run(service.serve(feed, host=host, port=port, listening=_say))
        finally:
            telemetry.stop()


def _say(address: str) -> None:
    typer.echo(f"listening on {address}")
