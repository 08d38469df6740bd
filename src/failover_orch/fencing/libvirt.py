"""The power of one VM, by way of the libvirt daemon of the node it is on."""

from __future__ import annotations

import sys
from pathlib import Path

from failover_orch.errors import FenceFailed, FenceRefused
from failover_orch.fencing.model import PowerReading, Target
from failover_orch.fencing.settings import LibvirtFence
from failover_orch.fencing.tools import run_tool

__all__ = ["LibvirtSwitch"]

_CALL_S = 10.0
_PROGRAM = Path(__file__).with_name("libvirt_domain.py")
_INSTALL = "it is the Python that runs this agent"


class LibvirtSwitch:
    """The VM's domain; the node itself is left as it is."""

    def __init__(self, settings: LibvirtFence) -> None:
        self._settings = settings

    @property
    def source(self) -> str:
        return f"libvirt at {self._settings.uri}"

    def subject(self, target: Target) -> str:
        return str(target)

    async def read(self, target: Target) -> PowerReading:
        return await self._run(target, "read")

    async def turn_off(self, target: Target) -> None:
        await self._run(target, "off")

    async def let_go(self) -> None:
        """Nothing is open: each call has a connection of its own."""

    async def _run(self, target: Target, what: str) -> PowerReading:
        if not target.vm:
            raise FenceRefused(f"{self.source} turns off VMs, and not the whole node {target}: name the VM")
        # -P: the program's own directory has modules that would hide others of the same name.
        command = (sys.executable, "-P", str(_PROGRAM), self._settings.uri, target.vm, what)
        end = await run_tool(command, timeout_s=_CALL_S, install=_INSTALL)
        word, _, sentence = end.output.strip().partition(" ")
        if word == "REFUSED":
            raise FenceRefused(f"{self.source}: {sentence}")
        if word not in (PowerReading.ON, PowerReading.OFF):
            raise FenceFailed(f"{self.source}: {sentence or end.errors.strip()[-200:] or 'no answer'}")
        return PowerReading(word)
