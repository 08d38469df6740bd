"""`failover-orch worker`: decide. As many as one likes; each takes a share of the partitions."""

from __future__ import annotations

from failover_orch.cli.common import Bootstrap, reported, settings

__all__ = ["worker"]


def worker(bootstrap: Bootstrap = None) -> None:
    """Run a worker: it folds events into the table of VMs and runs the failovers. Ends on SIGTERM or Ctrl-C.

    A worker that must not go on (another one has its partition, Kafka refuses a transaction) ends with status 70: let
    the service manager start it again.
    """
    from failover_orch.worker import run_worker  # noqa: PLC0415 (Faust takes long to load; other commands need none)

    with reported():
        run_worker(settings(bootstrap))
