"""The terms of a failover as options: from which recovery point, when it is committed, how long a test copy is kept."""

from __future__ import annotations

from typing import Annotated

import typer

from failover_orch.service import LATEST_WORD, Committing, committing, keeping, wanted_point

__all__ = ["LATEST_WORD", "Before", "Commit", "Committing", "RecoveryPoint", "committing", "keeping", "wanted_point"]

RecoveryPoint = Annotated[
    str,
    typer.Option(
        metavar="latest|app-consistent|ID",
        help="The recovery point to take, by its id where it is a certain one.",
        show_default="latest, or as the plan says",
    ),
]
Before = Annotated[
    str,
    typer.Option(metavar="TIME|AGE", help="The newest recovery point at or before 2026-11-23T10:00:00Z, or 15m ago."),
]

Commit = Annotated[
    Committing | None,
    typer.Option(
        help="When it is kept for good: as its last step, when somebody says so, or once --window is over, where "
        "auto-rollback takes it back.",
        show_default="at-once, or as the plan says",
    ),
]
