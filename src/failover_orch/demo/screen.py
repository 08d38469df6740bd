"""How the demo shows itself: a line for each act with its time, and the tables at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from failover_orch.demo.expectations import Ending, Expectation
from failover_orch.domain import Role, RunSnapshot, RunState

__all__ = ["Screen"]

_WIDE = 160
_COLOURS = {
    RunState.SUCCEEDED: "green",
    RunState.COMPLETED_WITH_ERRORS: "yellow",
    RunState.REFUSED: "yellow",
    RunState.CANCELLED: "yellow",
    RunState.FAILED: "red",
}


class Screen:
    """Prints the story."""

    def __init__(self, console: Console) -> None:
        # Whoever reads this in a file wants every word.
        self._console = console if console.is_terminal else Console(width=_WIDE)
        self._began = time.monotonic()

    def say(self, text: str, style: str = "") -> None:
        """A line."""
        self._console.print(text, style=style, markup=False, highlight=False)

    def chapter(self, text: str) -> None:
        """A headline."""
        self._console.rule(text, align="left", style="bold")

    @contextmanager
    def act(self, text: str) -> Iterator[Act]:
        """Something that takes a while: shown while it goes on, and once more, with its time, when it is done."""
        began = time.monotonic()
        with self._console.status(text) as status:
            act = Act(status.update, text)
            yield act
        took = time.monotonic() - began
        total = time.monotonic() - self._began
        self.say(f"{total:6.1f} s  {text}{': ' + act.outcome if act.outcome else ''}  ({took:.1f} s)")

    def routes(self, ending: Ending) -> None:
        """Where every VM is."""
        rows = [
            (
                vm.name,
                vm.application,
                *(
                    next((f"{here.node} ({here.site})" for here in vm.locations if here.role is role), "")
                    for role in (Role.PRIMARY, Role.REPLICA, Role.RETIRED)
                ),
                str(vm.epoch),
            )
            for vm in ending.vms
        ]
        self._table("Routes", ("VM", "application", "runs on", "replica on", "retired copy", "epoch"), rows)

    def addresses(self, ending: Ending) -> None:
        """What each adapter had, and what was found on the replica node afterwards."""
        runs = {run.vm_id: run for run in ending.runs if run.addresses}
        rows = [
            (
                vm.name,
                adapter.adapter_id,
                " ".join(adapter.addresses),
                runs[vm.vm_id].addresses.get(adapter.adapter_id, "").replace(",", ""),
            )
            for vm in ending.vms
            if vm.vm_id in runs
            for adapter in ending.adapters_before[vm.vm_id]
        ]
        self._table("Addresses", ("VM", "adapter", "before", "after"), rows)

    def runs(self, ending: Ending) -> None:
        """How every VM's failover went."""
        names = {vm.vm_id: vm.name for vm in ending.vms}
        rows = [
            (
                names.get(run.vm_id, run.vm_id),
                run.kind.lower(),
                f"[{_COLOURS.get(run.state, '')}]{run.state}[/]" if run.state in _COLOURS else run.state,
                f"{(run.finished_at_ms - run.started_at_ms) / 1000:.1f}",
                _loss(run),
            )
            for run in sorted(ending.runs, key=lambda run: run.started_at_ms)
            if run.vm_id and run.state is not RunState.REFUSED
        ]
        self._table("Failovers", ("VM", "kind", "ended", "seconds", "data lost, seconds"), rows)

    def refusals(self, ending: Ending) -> None:
        """What was refused before it started, and why."""
        names = {vm.vm_id: vm.name for vm in ending.vms}
        rows = [
            (names.get(run.vm_id, run.vm_id), run.detail.replace("[", r"\["))
            for run in ending.runs
            if run.vm_id and run.state is RunState.REFUSED
        ]
        self._table("Refused before it started", ("VM", "why"), rows)

    def expectations(self, found: Sequence[Expectation]) -> None:
        """What the demo expects of itself."""
        rows = [
            ("[green]held[/]" if each.held else "[red]NOT HELD[/]", each.what, each.seen.replace("[", r"\["))
            for each in found
        ]
        self._table("What must be so", ("", "expectation", "seen"), rows)

    def _table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(title=title, title_justify="left", header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)


class Act:
    """Lets an act say how far it is, and what came of it."""

    def __init__(self, update: object, text: str) -> None:
        self._update = update
        self._text = text
        self.outcome = ""

    def progress(self, text: str) -> None:
        """How far it is."""
        if callable(self._update):
            self._update(f"{self._text}: {text}")


def _loss(run: RunSnapshot) -> str:
    return "?" if run.data_loss_ms < 0 else f"{run.data_loss_ms / 1000:.1f}"
