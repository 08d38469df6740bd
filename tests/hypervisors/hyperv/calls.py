"""A cmdlet called on a node: what it was given, and what it does with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Any

from hyperv.errors import HalfDone, HyperVError
from hyperv.objects import Item
from hyperv.syntax import Cmdlet
from hyperv.world import Change, Machine, Node, World

__all__ = ["Call", "Handler", "like", "matching"]


@dataclass(slots=True)
class Call:
    """One cmdlet with all its parameters bound."""

    world: World
    node: Node
    cmdlet: Cmdlet
    parameters: Mapping[str, Any]
    errors: list[HyperVError] = field(default_factory=list)
    """What went wrong with one object and leaves the others."""
    only_half: bool = False

    def get(self, name: str, default: Any = None) -> Any:
        return self.parameters.get(name, default)

    def machines(self, *names: str) -> list[Machine]:
        """The VMs that the call is for, by whichever parameter they were given; all of the node where by none."""
        for name in ("VM", "VMReplication", "VMNetworkAdapter"):
            if name in self.parameters:
                given = self.parameters[name]
                return [self.here(item.source) for item in (given if isinstance(given, list) else [given])]
        for name in names:
            if name in self.parameters:
                given = self.parameters[name]
                return list(self._called(given if isinstance(given, list) else [given]))
        return self.world.on(self.node.name)

    def here(self, machine: Machine) -> Machine:
        """The machine, if it is on this node still."""
        if machine not in self.world.on(self.node.name):
            raise HyperVError(
                f"Hyper-V was unable to find a virtual machine with id {machine.vm_id}.", "ObjectNotFound"
            )
        return machine

    def _called(self, names: Iterable[str]) -> Iterator[Machine]:
        for name in names:
            found = [machine for machine in self.world.on(self.node.name) if like(machine.name, name)]
            yield from found
            if not found and not re.search(r"[*?\[]", name):
                self.errors.append(
                    HyperVError(
                        f'Hyper-V was unable to find a virtual machine with name "{name}".',
                        "InvalidParameter",
                        target=name,
                    )
                )

    def each(self, machines: Iterable[Machine], do: Callable[[Machine], Item | None]) -> Iterator[Item]:
        """Do it to every machine: an error with one of them leaves the others. Yields what -Passthru passes on."""
        for number, machine in enumerate(machines):
            if number:
                self.halfway()
            try:
                item = do(machine)
            except HyperVError as error:
                error.target = error.target or machine.name
                self.errors.append(error)
                continue
            if self.get("Passthru") and item is not None:
                yield item

    def halfway(self) -> None:
        """Where half of what the cmdlet does is done; a fault of the test may end it here."""
        if self.only_half:
            raise HalfDone

    def effect(self, machine: Machine | None, what: str) -> None:
        """Note that something was really changed."""
        name = machine.name if machine else ""
        self.world.effects.append(Change(self.node.name, name, self.cmdlet.name, what))


Handler = Callable[[Call], Iterable[Item]]
"""What a cmdlet does: objects out, errors raised (HyperVError) or noted in the call."""


def like(text: str, pattern: str, *, case: bool = False) -> bool:
    """PowerShell's -like."""
    return re.match(translate(pattern), text, 0 if case else re.IGNORECASE) is not None


def matching(items: Iterable[Item], wanted: Mapping[str, Any]) -> Iterator[Item]:
    """The items whose properties are as wanted, compared by their text; None: whatever they are."""
    for item in items:
        if all(value is None or like(_text(item.get(name)), str(value)) for name, value in wanted.items()):
            yield item


def _text(value: Any) -> str:
    return str(value)
