"""What a fence agent is: something that reads and cuts the power of a node, or of one VM on it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

__all__ = ["FenceAgent", "PowerReading", "Target"]


class PowerReading(StrEnum):
    """The power of a node or VM as it was read. UNKNOWN: nobody answered, or what they said is neither."""

    ON = "ON"
    OFF = "OFF"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be off: a VM, by way of its node's power or of its own. `vm` is its id in the events."""

    site: str
    node: str
    vm: str = ""

    @property
    def machine(self) -> str:
        """The node, as `site/node`."""
        return f"{self.site}/{self.node}"

    def __str__(self) -> str:
        return f"{self.machine}/{self.vm}" if self.vm else self.machine


class FenceAgent(Protocol):
    """Reads and cuts power. Safe for concurrent use; what is off already is left as it is."""

    async def power(self, target: Target) -> PowerReading:
        """The power as it is now.

        Raises:
            FenceRefused: nobody will ever tell, as things are: a password or a certificate is wrong.

        """

    async def cut(self, target: Target) -> str:
        """Turn the power off, and return once it was READ as off: the sentence that says who read it, and when.

        That a command to turn off was accepted proves nothing, and is not taken for proof.

        Raises:
            FenceRefused: it cannot be done as things are; the sentence says what would have to change.
            FenceFailed: it was not read as off within the agent's time.

        """
