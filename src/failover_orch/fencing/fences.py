"""Which fence agent is for which node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from failover_orch import telemetry
from failover_orch.errors import FenceFailed, FenceRefused, HypervisorError
from failover_orch.fencing.cutting import SwitchAgent
from failover_orch.fencing.ipmi import IpmiSwitch
from failover_orch.fencing.libvirt import LibvirtSwitch
from failover_orch.fencing.model import FenceAgent, PowerReading, Target
from failover_orch.fencing.person import PersonAgent
from failover_orch.fencing.redfish import RedfishSwitch
from failover_orch.fencing.settings import FenceSettings, IpmiFence, LibvirtFence, RedfishFence

__all__ = ["Fences", "fence_agent"]

_log = telemetry.logger(__name__)


def fence_agent(settings: FenceSettings) -> FenceAgent:
    """The agent that these settings are of."""
    match settings:
        case IpmiFence():
            return SwitchAgent(IpmiSwitch(settings), settings.pace)
        case RedfishFence():
            return SwitchAgent(RedfishSwitch(settings), settings.pace)
        case LibvirtFence():
            return SwitchAgent(LibvirtSwitch(settings), settings.pace)
        case _:
            return PersonAgent()


class Fences:
    """The fence agents of nodes by `site/node`. A node may have several: they are tried in their order."""

    def __init__(self, agents: Mapping[str, Sequence[FenceAgent]]) -> None:
        self._agents = {machine: tuple(several) for machine, several in agents.items()}

    @classmethod
    def of(cls, settings: Iterable[FenceSettings]) -> Fences:
        """The agents that these settings are of, for each node in their order."""
        agents: dict[str, list[FenceAgent]] = {}
        for one in settings:
            agents.setdefault(Target(one.site, one.node).machine, []).append(fence_agent(one))
        return cls(agents)

    @property
    def fences(self) -> tuple[str, ...]:
        """The nodes, as `site/node`, that something other than a person can cut."""
        return tuple(
            machine
            for machine, several in sorted(self._agents.items())
            if any(not isinstance(agent, PersonAgent) for agent in several)
        )

    async def power(self, target: Target) -> PowerReading:
        """What the first agent says that can tell; UNKNOWN where none can, or none is for that node."""
        for agent in self._agents.get(target.machine, ()):
            try:
                reading = await agent.power(target)
            except FenceRefused as error:
                _log.warning("power is not known", target=str(target), error=error)
                continue
            if reading is not PowerReading.UNKNOWN:
                return reading
        return PowerReading.UNKNOWN

    async def cut(self, target: Target, *, attested: bool = False) -> str:
        """Make sure that the target is off: the sentence that proves it.

        `attested`: a person says that it is off. That counts where no agent can tell; evidence outweighs it.

        Raises:
            FenceRefused: it cannot be done as things are, by any agent, or none is for that node.
            FenceFailed: it was not read as off, and an agent saw it on, or trying again may help.

        """
        said: list[HypervisorError] = []
        for agent in self._agents.get(target.machine, ()):
            try:
                return await agent.cut(target)
            except (FenceRefused, FenceFailed) as error:
                _log.warning("power was not cut", target=str(target), error=error)
                said.append(error)
        reasons = "; ".join(map(str, said)) or f"no fence agent is for {target.machine}: a person has to attest it"
        failed = [error for error in said if isinstance(error, FenceFailed)]
        seen_on = any(error.seen_on for error in failed)
        if attested and not seen_on:
            return f"attested: a person says that {target} is off, and its power cannot be read ({reasons})"
        if failed:
            raise FenceFailed(reasons, seen_on=seen_on)
        raise FenceRefused(reasons)
