"""Power by way of a management controller that speaks IPMI 2.0 over LAN, with `ipmitool`."""

from __future__ import annotations

import re
from collections.abc import Callable

from failover_orch.errors import ConfigError, FenceFailed, FenceRefused
from failover_orch.fencing.model import PowerReading, Target
from failover_orch.fencing.settings import IpmiFence
from failover_orch.fencing.tools import ToolEnd, run_tool
from failover_orch.secret_files import read_secret

__all__ = ["IpmiSwitch"]

_CALL_S = 12.0
_WAIT_S, _RETRIES = "2", "1"
"""For each packet. A controller that nobody hears is given up after 4 s, and asked again while there is time."""
_LONGEST_PASSWORD = 20
"""Bytes of an IPMI 2.0 password: what is longer would be cut off silently, and never match."""
_INSTALL = "install it (Debian, Ubuntu: apt install ipmitool)"
_READINGS = {"Chassis Power is on": PowerReading.ON, "Chassis Power is off": PowerReading.OFF}

_Meaning = tuple[str, Callable[[str], FenceRefused | FenceFailed], str]
_MEANINGS: tuple[_Meaning, ...] = (
    (r"RAKP 2 HMAC is invalid", FenceRefused, "does not have this password for {user}: see {password_file}"),
    (r"unauthorized name", FenceRefused, "does not know the user {user}"),
    (r"no response from RAKP", FenceFailed, "falls silent when {user} logs in: does it know that user?"),
    (r"[Ii]nsufficient resources", FenceFailed, "has no session to give: {said}"),
    (r"[Pp]rivilege", FenceRefused, "does not let {user} be {privilege}: {said}"),
    (r"Address lookup .* failed", FenceFailed, "has a name that cannot be resolved"),
    (r"Get Auth Capabilities error|Get Channel Authentication", FenceFailed, "does not answer at UDP port {port}"),
)
"""What ipmitool says (with -v) when it gets nowhere, in their order, and what it means. What is not here may pass."""


class IpmiSwitch:
    """A node's chassis power."""

    def __init__(self, settings: IpmiFence) -> None:
        self._settings = settings

    @property
    def source(self) -> str:
        return f"BMC {self._settings.host}"

    def subject(self, target: Target) -> str:
        return target.machine

    async def read(self, target: Target) -> PowerReading:
        end = await self._run("status")
        for words, reading in _READINGS.items():
            if words in end.output:
                return reading
        raise FenceFailed(f"{self.source} does not say whether {target.machine} is on: {_last(end.output)!r}")

    async def turn_off(self, target: Target) -> None:  # noqa: ARG002 - the controller has one chassis
        await self._run("off")

    async def let_go(self) -> None:
        """Nothing is open: each call of ipmitool has a session of its own."""

    async def _run(self, word: str) -> ToolEnd:
        settings = self._settings
        try:
            password = read_secret(settings.password_file)
        except ConfigError as error:
            raise FenceRefused(str(error)) from None
        if len(password.encode()) > _LONGEST_PASSWORD:
            raise FenceRefused(f"the password in {settings.password_file} is longer than IPMI's 20 bytes")
        # The password never stands on a command line, where everybody on this machine could read it.
        who = ("-H", settings.host, "-p", str(settings.port), "-U", settings.user, "-f", str(settings.password_file))
        how = ("-v", "-I", "lanplus", "-L", settings.privilege.upper(), "-N", _WAIT_S, "-R", _RETRIES)
        end = await run_tool(("ipmitool", *how, *who, "chassis", "power", word), timeout_s=_CALL_S, install=_INSTALL)
        if end.status:
            raise self._trouble(end)
        return end

    def _trouble(self, end: ToolEnd) -> FenceRefused | FenceFailed:
        settings = self._settings
        said = _last(end.errors) or f"ipmitool ended with status {end.status}"
        for expression, kind, sentence in _MEANINGS:
            if re.search(expression, end.errors):
                words = sentence.format(
                    user=settings.user,
                    password_file=settings.password_file,
                    privilege=settings.privilege.upper(),
                    port=settings.port,
                    said=said,
                )
                return kind(f"{self.source} {words}")
        return FenceFailed(f"{self.source} gives no answer that helps: {said}")


def _last(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip(" >") for line in text.splitlines() if line.strip(" >")]
    return lines[-1] if lines else ""
