"""A guest as its agent answers: what it has configured, files, commands, and its shutdown.

The agent (`qemu-ga`) speaks through a channel of the domain. It is the guest's: it may be missing, stuck, told by its
administrator to refuse commands, or something else that answers in its place and means harm. So every answer is waited
for with a limit, read up to a limit, and where it makes no sense that is StepFailed as if there were none.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import libvirt
import libvirt_qemu

from failover_orch.domain.inventory import IntegrationServices
from failover_orch.domain.settings import AdapterAddresses
from failover_orch.errors import StepFailed, StepRefused
from failover_orch.hypervisors.libvirt.domain_xml import DomainAdapter
from failover_orch.hypervisors.libvirt.guest_files import (
    IPV4_ROUTES,
    IPV6_ADDRESSES,
    IPV6_ROUTES,
    RESOLVER_FILES,
    Interface,
    Network,
    interfaces,
    network,
)
from failover_orch.hypervisors.libvirt.node import Node
from failover_orch.hypervisors.rules import Configuration

__all__ = ["AgentRefused", "Executed", "Guest", "shut_down"]

ANSWER_S = 5
"""How long the agent may take to answer."""
POLL_S = 0.2
READ_CHUNK = 64 * 1024
LARGEST_FILE = 1024 * 1024
"""Bytes that are read of a file: a guest may say for ever that there is more."""
READ_S = 30.0
WRITE_CHUNK = 2 * 1024
"""The agent does not take requests that are much longer."""
ACPI_AGAIN_S = 5.0
"""How often the power button is pressed: a guest that is still booting does not see it."""
_LONGEST_OUTPUT, _LONGEST_REASON = 4_000, 200
_UNCONFIGURED = libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED
_REFUSING = frozenset({"VIR_ERR_INTERNAL_ERROR", "VIR_ERR_AGENT_COMMAND_FAILED"})
"""What libvirt says where the agent answered with an error: the second only in newer versions."""


class AgentRefused(StepFailed):
    """The agent answered that it cannot or may not do this."""


@dataclass(frozen=True, slots=True)
class Executed:
    """A command that ended in the guest: its status, and what it wrote, errors after the rest."""

    status: int
    output: str


class Guest:
    """The guest of one domain."""

    def __init__(self, node: Node, uuid: str, name: str = "") -> None:
        """`name` is what errors call it, such as `vm-1 at dr`."""
        self.node = node
        self.name = name or f"the domain {uuid} on {node.name}"
        self._uuid = uuid

    async def ask(self, command: str, **arguments: object) -> Any:
        """The agent's answer to one of its commands.

        Raises:
            StepRefused: the domain has no channel for an agent.
            AgentRefused: the agent answered with an error.
            StepFailed: it did not answer.

        """
        text = json.dumps({"execute": command, "arguments": arguments} if arguments else {"execute": command})

        def call(connection: libvirt.virConnect) -> str:
            domain = connection.lookupByUUIDString(self._uuid)
            return str(libvirt_qemu.qemuAgentCommand(domain, text, ANSWER_S, 0))

        try:
            answer = await self.node.call(call, within_s=3 * ANSWER_S)
        except libvirt.libvirtError as error:
            code, said = error.get_error_code(), error.get_error_message() or str(error)
            if code == _UNCONFIGURED:
                raise StepRefused(f"the domain of {self.name} has no channel for a guest agent") from error
            if code in {getattr(libvirt, name, None) for name in _REFUSING}:
                raise AgentRefused(f"the guest agent of {self.name} refuses {command}: {said}") from error
            raise StepFailed(f"the guest agent of {self.name} does not answer: {said}") from error
        with self._making_sense(command):
            return json.loads(answer)["return"]

    async def answers(self) -> bool:
        """Whether the agent answers, now."""
        try:
            await self.ask("guest-ping")
        except (StepFailed, StepRefused):
            return False
        return True

    async def services(self) -> IntegrationServices:
        """The agent, seen as the guest's integration services."""
        return IntegrationServices.RUNNING if await self.answers() else IntegrationServices.ABSENT

    async def await_agent(self, within_s: float) -> None:
        """Wait until the agent answers.

        Raises:
            StepRefused: the domain has no channel for an agent.
            StepFailed: it has not answered in time.

        """
        deadline = time.monotonic() + within_s
        while True:
            try:
                await self.ask("guest-ping")
            except StepFailed as error:
                if time.monotonic() > deadline:
                    raise StepFailed(f"{error}, after {within_s:g} s") from error
                await asyncio.sleep(POLL_S)
            else:
                return

    async def read(self, path: str) -> str | None:
        """A file of the guest; None where it cannot be opened.

        Raises:
            StepFailed: the agent did not answer.

        """
        try:
            handle = await self.ask("guest-file-open", path=path, mode="r")
        except AgentRefused:
            return None
        content = b""
        deadline = time.monotonic() + READ_S
        try:
            ended = False
            while not ended:
                part = await self.ask("guest-file-read", handle=handle, count=READ_CHUNK)
                with self._making_sense("guest-file-read"):
                    content += base64.b64decode(part["buf-b64"])
                    ended = bool(part["eof"])
                if len(content) > LARGEST_FILE or time.monotonic() > deadline:
                    raise StepFailed(f"the guest agent of {self.name} gives more of {path} than can be true")
        finally:
            await self.ask("guest-file-close", handle=handle)
        return content.decode(errors="replace")

    async def write(self, path: str, content: str) -> None:
        """Write a file of the guest.

        Raises:
            AgentRefused: it cannot be written.
            StepFailed: the agent did not answer.

        """
        handle = await self.ask("guest-file-open", path=path, mode="w")
        try:
            whole = content.encode()
            for begin in range(0, len(whole), WRITE_CHUNK):
                encoded = base64.b64encode(whole[begin : begin + WRITE_CHUNK]).decode()
                await self.ask("guest-file-write", handle=handle, **{"buf-b64": encoded})
        finally:
            await self.ask("guest-file-close", handle=handle)

    async def run(self, *command: str, within_s: float = 15.0) -> Executed:
        """Run a command in the guest to its end.

        Raises:
            AgentRefused: there is no such command, or nobody may run any.
            StepFailed: the agent did not answer, or the command took too long.

        """
        started = await self.ask("guest-exec", path=command[0], arg=list(command[1:]), **{"capture-output": True})
        with self._making_sense("guest-exec"):
            pid = int(started["pid"])
        deadline = time.monotonic() + within_s
        while True:
            status = await self.ask("guest-exec-status", pid=pid)
            with self._making_sense("guest-exec-status"):
                if status["exited"]:
                    parts = (base64.b64decode(status.get(name, "")) for name in ("out-data", "err-data"))
                    output = b"".join(parts).decode(errors="replace").strip()
                    # What a signal ended has no exit code.
                    return Executed(int(status.get("exitcode", -1)), output[:_LONGEST_OUTPUT])
            if time.monotonic() > deadline:
                raise StepFailed(f"`{' '.join(command)}` in {self.name} has not ended in {within_s:g} s")
            await asyncio.sleep(POLL_S / 4)

    async def interfaces(self) -> tuple[Interface, ...]:
        """The guest's network interfaces, with their addresses."""
        answer = await self.ask("guest-network-get-interfaces")
        with self._making_sense("guest-network-get-interfaces"):
            return interfaces(answer)

    async def network(self) -> Network:
        """How the guest's network is set up, as far as its agent tells."""
        routes4 = await self.read(IPV4_ROUTES)
        routes6 = await self.read(IPV6_ROUTES)
        addresses6 = await self.read(IPV6_ADDRESSES)
        resolver = ""
        for path in RESOLVER_FILES:
            resolver = await self.read(path) or ""
            if resolver:
                break
        found = await self.interfaces()
        with self._making_sense("the files that say how its network is set up"):
            return network(found, routes4, routes6, addresses6, resolver)

    async def configured(
        self, adapters: Sequence[DomainAdapter], plans: Sequence[AdapterAddresses] = ()
    ) -> Mapping[str, Configuration]:
        """What the guest has configured on each adapter, without link-local addresses. Adapters are found by their MAC.

        DNS servers are the guest's, not an adapter's: those that `plans` name for an adapter are that adapter's, any
        other counts for the one through which the guest reaches it.

        Raises:
            StepRefused: the domain has no channel for an agent.
            StepFailed: the agent does not answer.

        """
        return (await self.network()).configurations({each.adapter_id: each.mac for each in adapters}, plans)

    @contextmanager
    def _making_sense(self, what: str) -> Iterator[None]:
        """Whatever a guest says that is not as it has to be is no answer."""
        try:
            yield
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
            said = f"{type(error).__name__}: {str(error)[:_LONGEST_REASON]}"
            raise StepFailed(
                f"the guest agent of {self.name} answers {what} in a way that makes no sense ({said})"
            ) from error

    async def is_off(self) -> bool:
        """Whether its domain is off, and not only gone elsewhere.

        Raises:
            StepFailed: it left the node.

        """

        def state(connection: libvirt.virConnect) -> tuple[int, int]:
            found, reason = connection.lookupByUUIDString(self._uuid).state()
            return int(found), int(reason)

        try:
            found, reason = await self.node.call(state)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
            found, reason = libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED
        if found == libvirt.VIR_DOMAIN_SHUTOFF and reason == libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED:
            # Off here, and running where it went.
            raise StepFailed(f"{self.name} is not on {self.node.name} any more: it was moved meanwhile")
        return bool(found == libvirt.VIR_DOMAIN_SHUTOFF)

    async def ask_to_shut_down(self, way: int) -> bool:
        """Ask it to shut down in this way of libvirt's; False where that way is not open, or not now."""

        def ask(connection: libvirt.virConnect) -> None:
            connection.lookupByUUIDString(self._uuid).shutdownFlags(way)

        try:
            await self.node.call(ask)
        except libvirt.libvirtError:
            # It may have shut down just now, or moved: its state is looked at again.
            return False
        return True


async def shut_down(node: Node, uuid: str, name: str, *, within_s: float) -> None:
    """Have a guest shut down and wait until its domain is off: through its agent, or else by the power button.

    Raises:
        StepFailed: it has not shut down in time, or left the node meanwhile.

    """
    guest = Guest(node, uuid, name)
    deadline = time.monotonic() + within_s
    press_at = time.monotonic()
    # Asked for a shutdown, a stuck agent is waited for by libvirt for a whole minute: so it has to answer first.
    if await guest.answers() and await guest.ask_to_shut_down(libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT):
        press_at += within_s / 2
    while not await guest.is_off():
        now = time.monotonic()
        if now > deadline:
            raise StepFailed(
                f"{name} has not shut down in {within_s:g} s: neither the guest's agent nor the power button brought "
                "it to; shut it down inside, or cut its power"
            )
        if now >= press_at:
            await guest.ask_to_shut_down(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
            press_at = now + ACPI_AGAIN_S
        await asyncio.sleep(POLL_S)
