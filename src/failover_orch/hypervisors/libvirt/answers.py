"""Whether a VM answers at its addresses, and whether it came up with those that it was to have.

A failover's addresses are there in four stages: staged, in the VM's record; its agent seen; reported by the guest; and
answered, to somebody else. Whoever verifies them is told which of the four is missing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import resources
from ipaddress import ip_interface

from failover_orch.domain.settings import AdapterAddresses
from failover_orch.errors import ConfigError, StepFailed, StepRefused
from failover_orch.hypervisors.libvirt.domain_xml import DomainAdapter, describe
from failover_orch.hypervisors.libvirt.guest import Guest
from failover_orch.hypervisors.libvirt.guest_files import TCP_SOCKETS, listened_ports
from failover_orch.hypervisors.libvirt.in_guest import planned_families
from failover_orch.hypervisors.libvirt.node import Node
from failover_orch.hypervisors.protocol import Power
from failover_orch.hypervisors.rules import EndAdapter, differences

__all__ = ["Ask", "Probe", "answering", "answering_on_bridge", "asking", "listens", "verify"]

ANSWER_S = 2
"""How long one answer may take."""
WAY_S = 15.0
"""How long the way to the node and back may take besides."""
POLL_S = 0.3

_EACH = """
each() {
    for address; do
        if ! ip route get "$address" >/dev/null 2>&1; then echo "unrouted $address"
        else { asked "$address" >/dev/null 2>&1 && echo "answers $address"; } </dev/null & fi
    done
    wait
}
each "$@"
"""
"""What bash asks with on a node: all addresses at once, but for those of a family that the node does not speak."""
_PING = """
command -v ping >/dev/null || { echo "ping is not installed: install iputils-ping, or iputils" >&2; exit 1; }
asked() { ping -n -c 1 -W "$seconds" "$1"; }
"""
_CONNECT = """
asked() { timeout "$seconds" bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$1" "$port"; }
"""

Ask = Callable[[Mapping[str, str]], Awaitable[frozenset[str]]]
"""Asks at addresses, each with the MAC of the adapter that is to have it; gives those that answered."""


@dataclass(frozen=True, slots=True)
class Probe:
    """How a VM has to answer: `ping`, `tcp` at a port, or `none` for not at all."""

    kind: str
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Probe:
        """The probe that `ping`, `tcp:PORT` or `none` stands for.

        Raises:
            ConfigError: it is none of these.

        """
        kind, colon, port = text.partition(":")
        if kind == "tcp" and port.isdecimal() and 0 < int(port) < 1 << 16:
            return cls(kind, int(port))
        if kind in ("ping", "none") and not colon:
            return cls(kind)
        raise ConfigError(f"answers: {text!r} is no way in which a VM can answer; expected ping, tcp:PORT or none")


def asking(node: Node, live_xml: str, probe: Probe) -> Ask:
    """Asks a VM from the node that it is on, as the probe says. `live_xml`: its domain's.

    At addresses of a family in which the node reaches nobody it asks on the adapter's bridge.
    """
    bridges = {adapter.mac: adapter.network for adapter in describe(live_xml).adapters}

    async def ask(macs: Mapping[str, str]) -> frozenset[str]:
        answered, unrouted = await answering(node, macs, probe)
        for bridge in sorted({bridges[macs[address]] for address in unrouted}):
            there = {address: macs[address] for address in unrouted if bridges[macs[address]] == bridge}
            answered |= await answering_on_bridge(node, bridge, there)
        return answered

    return ask


async def answering(node: Node, addresses: Collection[str], probe: Probe) -> tuple[frozenset[str], frozenset[str]]:
    """Which of these addresses, without prefixes, answer to the node, and which ones it has no route to.

    Raises:
        StepFailed: the node cannot ask.

    """
    if not addresses or probe.kind == "none":
        return frozenset(addresses), frozenset()
    how = _CONNECT if probe.kind == "tcp" else _PING
    script = f"seconds={ANSWER_S} port={probe.port}\n{how}{_EACH}"
    # By its standard input: on its way to the node a shell would take it apart.
    output = await node.run("bash", "-s", "--", *addresses, stdin=script.encode(), within_s=ANSWER_S + WAY_S)
    return _said(output, "answers"), _said(output, "unrouted")


async def answering_on_bridge(node: Node, bridge: str, macs: Mapping[str, str]) -> frozenset[str]:
    """Which of these addresses, without prefixes, answer on a bridge of the node, from the MACs that are to have them.

    Raises:
        StepFailed: the node cannot ask.

    """
    if not macs:
        return frozenset()
    program = resources.files(__package__).joinpath("neighbours.py").read_bytes()
    arguments = ("-", bridge, str(ANSWER_S), *(f"{address}={mac}" for address, mac in macs.items()))
    output = await node.run("python3", *arguments, stdin=program, within_s=ANSWER_S + WAY_S)
    return _said(output, "answers")


def _said(output: bytes, what: str) -> frozenset[str]:
    """The addresses of which this was said."""
    lines = (line.split() for line in output.decode().splitlines())
    return frozenset(words[1] for words in lines if words[:1] == [what])


async def listens(guest: Guest, port: int) -> bool:
    """Whether something in the guest listens at a TCP port for others, as its agent sees it: for a VM out of reach.

    Raises:
        StepFailed: the agent does not answer, or lets nobody read that.

    """
    sockets = [text for path in TCP_SOCKETS if (text := await guest.read(path)) is not None]
    if not sockets:
        raise StepFailed(f"the agent of {guest.name} lets nobody read {TCP_SOCKETS[0]}: cannot tell who listens there")
    return port in listened_ports(sockets)


async def verify(
    plans: Sequence[AdapterAddresses],
    *,
    guest: Guest,
    power: Power,
    staged: Sequence[AdapterAddresses],
    live_xml: str,
    ask: Ask,
    networked: bool = True,
    within_s: float = 10.0,
) -> None:
    """That the guest has the planned addresses and answers there. `networked`: its adapters have to be connected, too.

    Waits up to `within_s` for what may be under way: the guest boots, asks for a lease, or looks for duplicates.

    Raises:
        StepRefused: the VM is off, lacks an adapter or a channel for its guest agent.
        StepFailed: its agent is not seen, it reports something else, or nobody answers; the sentence says which.

    """
    whose = guest.name
    if power is Power.OFF:
        raise StepRefused(f"{whose} is off and reports no addresses: start it first")
    description = describe(live_xml)
    adapters = {adapter.adapter_id: adapter for adapter in description.adapters}
    for plan in plans:
        if plan.adapter_id not in adapters:
            raise StepRefused(f"{whose} has no adapter {plan.adapter_id!r}")
    if plans and not description.agent_channel:
        raise StepRefused(
            f"{whose} reports no addresses: its integration services are ABSENT, as its domain has no channel for a "
            "guest agent (org.qemu.guest_agent.0), and nobody can tell which addresses it came up with"
        )
    deadline = time.monotonic() + within_s
    for plan in plans:
        adapter = adapters[plan.adapter_id]
        while missing := await _missing(plan, plans, adapter, guest, ask, networked=networked):
            stage, found = missing
            if stage is _Stage.REPORTED and plan not in staged:
                raise StepFailed(f"{found}: not staged for it before it started")
            if time.monotonic() > deadline or stage is _Stage.CONNECTED:
                raise StepFailed(f"{found}: {stage}")
            await asyncio.sleep(POLL_S)


class _Stage(StrEnum):
    """What is missing of a failover's addresses, as it is told."""

    SEEN = "staged, but its guest agent is not seen"
    CONNECTED = "so nobody can reach it there"
    REPORTED = "staged, but not what its guest reports"
    ANSWERED = "staged and reported by its guest, but nobody answers there"


async def _missing(
    plan: AdapterAddresses,
    plans: Sequence[AdapterAddresses],
    adapter: DomainAdapter,
    guest: Guest,
    ask: Ask,
    *,
    networked: bool,
) -> tuple[_Stage, str] | None:
    """Which stage is not there yet for an adapter, and what was found instead; None where all are."""
    whose = f"adapter {plan.adapter_id!r} of {guest.name}"
    try:
        network = await guest.network()
    except StepFailed as error:
        return _Stage.SEEN, f"{whose} reports no addresses ({error})"
    configured = network.configurations({adapter.adapter_id: adapter.mac}, plans)[adapter.adapter_id]
    expected = plan if network.routes_known else _addresses_alone(plan)
    now = EndAdapter(adapter.adapter_id, adapter.connected, configured, configured)
    if found := differences(now, expected, networked=False):
        return _Stage.REPORTED, f"{whose} {' and '.join(found)}"
    if networked and not adapter.connected:
        return _Stage.CONNECTED, f"{whose} is not connected"
    if not adapter.connected:
        return None
    versions = [version for version, _ in planned_families(plan)]
    reported = [ip_interface(text).ip for text in configured.addresses if ip_interface(text).version in versions]
    answered = await ask({str(address): adapter.mac for address in reported})
    silent = [str(address) for address in reported if str(address) not in answered]
    return (_Stage.ANSWERED, f"{whose} has {', '.join(silent)}") if silent else None


def _addresses_alone(plan: AdapterAddresses) -> AdapterAddresses:
    """The plan without what an agent that lets nobody read files does not tell: gateways and DNS servers."""
    families = {f"ipv{version}": replace(family, gateways=(), dns=()) for version, family in planned_families(plan)}
    return AdapterAddresses(plan.adapter_id, **families)
