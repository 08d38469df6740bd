"""A node that no machine can turn off."""

from __future__ import annotations

from failover_orch.errors import FenceRefused
from failover_orch.fencing.model import PowerReading, Target

__all__ = ["PersonAgent"]


class PersonAgent:
    """A fence that only a person's attestation opens."""

    async def power(self, target: Target) -> PowerReading:  # noqa: ARG002 - whatever it is
        """Nobody can be asked."""
        return PowerReading.UNKNOWN

    async def cut(self, target: Target) -> str:
        """Refuse: it is for a person to do.

        Raises:
            FenceRefused: always.

        """
        raise FenceRefused(
            f"the power of {target.machine} is for a person to cut: turn it off, look that it is, and attest it in "
            "the request (--primary-is-down)"
        )
