"""Pipelines of cmdlets as values.

Nothing here, or anywhere in this package, is script text: a name or an address out of an event ends as the value of a
parameter and nowhere else, so there is nothing that it could break out of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

__all__ = ["Cmdlet", "Pipeline", "act", "changing", "guarded", "look", "of_vm", "select", "where"]

Argument = str | int | bool | UUID | None | Sequence[str] | Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Cmdlet:
    """A cmdlet with its parameters; a switch is True or False."""

    name: str
    parameters: Mapping[str, Argument] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Cmdlets, each taking what the one before puts out."""

    cmdlets: tuple[Cmdlet, ...]
    changes: bool = False
    """Whether it changes something: then it is never run again for want of an answer."""

    def __or__(self, following: Pipeline) -> Pipeline:
        return Pipeline((*self.cmdlets, *following.cmdlets), self.changes or following.changes)

    def __str__(self) -> str:
        """What it is called in a sentence: by what it is for, its last cmdlet that is no filter."""
        named = [cmdlet.name for cmdlet in self.cmdlets if cmdlet.name not in _FILTERS]
        return named[-1] if named else "nothing"


_FILTERS = frozenset({"Where-Object", "Select-Object"})


def look(name: str, **parameters: Argument) -> Pipeline:
    """A cmdlet that only looks."""
    # A filter has no errors of its own, and what goes wrong before it ends the pipeline all the same.
    strict: dict[str, Argument] = {} if name in _FILTERS else {"ErrorAction": "Stop"}
    return Pipeline((Cmdlet(name, parameters | strict),))


def changing(name: str, **parameters: Argument) -> Pipeline:
    """A cmdlet that changes something: asked not to ask back, and to fail as a whole or not at all."""
    return Pipeline((Cmdlet(name, parameters | {"ErrorAction": "Stop", "Confirm": False}),), changes=True)


def act(name: str, **parameters: Argument) -> Pipeline:
    """A change that puts out what it changed, so that one which a guard kept from happening is known by its silence."""
    return changing(name, **parameters, Passthru=True)


def where(name: str, value: str) -> Pipeline:
    """What goes on is what has this value, in the sense of PowerShell's -EQ."""
    return look("Where-Object", Property=name, Value=value, EQ=True)


def select(*names: str) -> Pipeline:
    """Only these properties: whole objects of the Hyper-V module are large."""
    return Pipeline((Cmdlet("Select-Object", {"Property": list(names)}),))


def of_vm(vm: UUID | None = None) -> Pipeline:
    """A node's VM, or all of them."""
    return look("Get-VM") if vm is None else look("Get-VM", Id=vm)


def guarded(vm: UUID, notes: str | None) -> Pipeline:
    """The VM, if its notes are still these: the condition of everything that is done to it.

    Hyper-V has no compare-and-set. This comes as near to one as its commands allow: the comparison and what follows
    it in the pipeline are one command on the node, so what an agent that was held up meanwhile believes does not count.
    """
    return of_vm(vm) | look("Where-Object", Property="Notes", Value=notes, CEQ=True)
