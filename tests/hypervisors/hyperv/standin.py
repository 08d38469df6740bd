"""Stand-in Hyper-V hosts: two clusters of two nodes each, reached as Windows is, and the hands that break them."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from hyperv.certificate import certificates
from hyperv.creation import SITES, VmSpec, create
from hyperv.cycles import replicate_due
from hyperv.doors import Door, Listener
from hyperv.enumerations import VMReplicationState, VMState
from hyperv.faults import Armed, Effect, Fault, Faults
from hyperv.pipelines import Called, Pipelines
from hyperv.remoting import Runspaces
from hyperv.world import (
    HEARTBEAT,
    KVP,
    Change,
    Disk,
    GuestAddresses,
    Machine,
    Node,
    World,
)
from hyperv.wsman import Management
from worlds import Clock

__all__ = ["StandIn"]


class StandIn:
    """The hosts. As a context manager they are there from its beginning to its end."""

    username = "failover"
    password = "correct horse battery staple"

    def __init__(
        self,
        *,
        vms: tuple[VmSpec, ...] = (VmSpec(),),
        clock: Clock | None = None,
        boot_s: float = 0,
        patience_s: float = 0.2,
    ) -> None:
        """`patience_s` bounds how long an operation may wait for output, whatever the client asks for."""
        self.clock = clock or Clock()
        self.calls: list[Called] = []
        self._faults = Faults()
        self._bugs: list[str] = []
        self._world = World(SITES, self.clock)
        self._world.boot_s = boot_s
        self._directory = tempfile.TemporaryDirectory(prefix="stand-in-")
        self._listeners: dict[tuple[str, str, str], Listener] = {}
        self._patches = pytest.MonkeyPatch()
        self._services = {name: self._service(name, patience_s) for name in self._world.nodes}
        for spec in vms:
            create(self._world, spec)

    def __enter__(self) -> Self:
        authority, chain = certificates(("stand-in.example", "localhost", *self._world.nodes))
        self.ca_file.write_bytes(authority)
        chain_file = self._file("chain.pem")
        chain_file.write_bytes(chain)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(chain_file)
        # pyspnego reads whom it accepts from a file, and that file's name from the environment.
        self._file("users").write_text(f":{self.username}:{self.password}\n")
        self._patches.setenv("NTLM_USER_FILE", str(self._file("users")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for service in self._services.values():
            service.forget()
        for listener in self._listeners.values():
            listener.close()
        self._patches.undo()
        self._directory.cleanup()
        if self._bugs and kind is None:
            raise AssertionError("the stand-in failed itself:\n" + "\n".join(self._bugs))

    def _file(self, name: str) -> Path:
        return Path(self._directory.name, name)

    def _service(self, node: str, patience_s: float) -> Management:
        pipelines = Pipelines(self._world, node, self._faults, self.calls, self._bugs)
        return Management(node, lambda: Runspaces(pipelines), patience_s)

    # How it is reached

    @property
    def ca_file(self) -> Path:
        """The certificate of the authority that the nodes' own are signed by."""
        return self._file("authority.pem")

    def door(self, node: str, *, seen_from: str, auth: str = "basic") -> Door:
        """Where the node can be reached by whoever stands in that site: HTTPS with Basic, or HTTP with Negotiate."""
        key = (node, seen_from, auth)
        if key not in self._listeners:
            self._listeners[key] = Listener(
                self._services[node].answer,
                lambda: self._reaches(node, seen_from),
                lambda: (self.username, self.password),
                self._tls if auth == "basic" else None,
            )
        return Door(node, seen_from, "127.0.0.1", self._listeners[key].port, auth == "basic", auth)

    def _reaches(self, node: str, seen_from: str) -> bool:
        with self._world.lock:
            same = self._world.nodes[node].site == seen_from
            return self._world.node_works(node) and (same or self._world.link_up)

    def change_password(self, password: str) -> None:
        """From now on whoever shows the old one is not let in. Connections that were let in over Negotiate stay."""
        self.password = password
        self._file("users").write_text(f":{self.username}:{password}\n")

    def shells(self, node: str) -> int:
        """How many shells are open on the node."""
        return self._services[node].shells()

    def close_shells(self, node: str) -> None:
        """End the node's shells, as a restart of its remote management does."""
        self._services[node].forget()

    # What happens to the world

    def power_off(self, site: str) -> None:
        """All power at a site goes: its VMs are off, its nodes do not answer."""
        with self._world.lock:
            self._world.powered[site] = False
            for machine in self._world.machines:
                if machine.site == site:
                    machine.state = VMState.Off
        self._gone(self._world.sites[site].nodes)

    def power_on(self, site: str) -> None:
        """Power is back. VMs stay off."""
        with self._world.lock:
            self._world.powered[site] = True

    def power_off_node(self, node: str) -> None:
        """A node goes: its cluster starts what ran there on another of its nodes, if one works. Test copies are off."""
        with self._world.lock:
            self._world.nodes[node].up = False
            site = self._world.sites[self._world.nodes[node].site]
            left = next((name for name in site.nodes if self._world.node_works(name)), "")
            for machine in self._world.on(node):
                ran = machine.state is VMState.Running
                machine.state = VMState.Off
                machine.node = left or node
                if ran and left and not machine.is_test_copy:
                    self._world.switch_on(machine)
        self._gone((node,))

    def power_on_node(self, node: str) -> None:
        with self._world.lock:
            self._world.nodes[node].up = True

    def pause_node(self, node: str, *, paused: bool = True) -> None:
        with self._world.lock:
            self._world.nodes[node].paused = paused

    def _gone(self, nodes: tuple[str, ...]) -> None:
        for (node, _, _), listener in self._listeners.items():
            if node in nodes:
                listener.hang_up()
        for node in nodes:
            self._services[node].forget()

    def cut_link(self) -> None:
        """The sites do not reach each other any more."""
        with self._world.lock:
            self._world.link_up = False
        for (node, seen_from, _), listener in self._listeners.items():
            if self._world.nodes[node].site != seen_from:
                listener.hang_up()

    def restore_link(self) -> None:
        with self._world.lock:
            self._world.link_up = True

    def migrate(self, vm: str, node: str, *, alone: bool = False) -> None:
        """Move the VM's end at the node's site to the node, running or off, and its test copy with it, or `alone`."""
        with self._world.lock:
            machine = self.vm(vm, self._world.nodes[node].site)
            copy = None if alone else self._world.test_copy(machine)
            for each in (machine, copy):
                if each is not None:
                    each.node = node

    def replicate(self) -> int:
        """Let an interval pass, and the cycles that are due then; returns how many were."""
        with self._world.lock:
            frequencies = [each.relationship.frequency_s for each in self._world.machines if each.relationship]
            self.clock.advance(max(frequencies, default=0))
            return replicate_due(self._world)

    def write(self, vm: str, count: int) -> None:
        """The VM writes this many bytes wherever it runs."""
        with self._world.lock:
            for machine in self._world.ends(vm):
                if machine.state is VMState.Running:
                    machine.disk = Disk(machine.disk.configured, machine.disk.written + count)
                    if machine.relationship:
                        machine.relationship.pending_bytes += count

    def silence(self, vm: str, *, silent: bool = True) -> None:
        """Let the VM's cycles come to nothing, though the sites reach each other."""
        with self._world.lock:
            (self._world.silenced.add if silent else self._world.silenced.discard)(vm)

    def set_integration_services(self, vm: str, *, answer: bool = True, enabled: bool = True) -> None:
        """Whether the guest's integration services answer, and whether heartbeat and data exchange are enabled."""
        with self._world.lock:
            for machine in self._world.ends(vm):
                machine.services_contact = answer
                machine.disabled_services = set() if enabled else {HEARTBEAT, KVP}

    def settle(self, vm: str, site: str) -> None:
        """Let the shutdown that a guest was asked for come to its end."""
        with self._world.lock:
            machine = self.vm(vm, site)
            if machine.state is VMState.Stopping:
                machine.state = VMState.Off

    def set_state(self, vm: str, site: str, state: VMReplicationState) -> None:
        """Put an end's replication into a state that it takes long, or an accident, to come to."""
        with self._world.lock:
            relationship = self.vm(vm, site).relationship
            assert relationship is not None
            relationship.state = state

    def close_port(self, vm: str, port: int, *, closed: bool = True) -> None:
        """Nothing listens at this TCP port of the VM any more; at all others it does."""
        with self._world.lock:
            (self._world.closed_ports.add if closed else self._world.closed_ports.discard)((vm, port))

    def listens(self, address: str, port: int) -> bool:
        """Whether a VM that runs, is connected and has this address listens at the port."""
        with self._world.lock:
            return any(
                (machine.name, port) not in self._world.closed_ports
                for machine in self._world.machines
                if self._world.booted(machine)
                for adapter in machine.adapters
                if adapter.switch
                for known in machine.disk.configured.get(adapter.adapter_id, GuestAddresses()).addresses
                if known.partition("/")[0] == address
            )

    # What goes wrong, and what went on

    def fail_next(
        self, cmdlet: str, fault: Fault, *, effect: Effect = Effect.NONE, times: int = 1, node: str = ""
    ) -> None:
        """Let the next call of the cmdlet, on the node or on any, go wrong."""
        self._faults.arm(Armed(cmdlet, fault, effect, times, node))

    def faults_left(self) -> tuple[Armed, ...]:
        """Faults that no call has met."""
        return self._faults.left()

    @property
    def used(self) -> Mapping[str, set[str]]:
        """The cmdlets that were called, and which of their parameters were bound."""
        used: dict[str, set[str]] = {}
        for called in list(self.calls):
            used.setdefault(called.cmdlet, set()).update(called.parameters)
        return used

    @property
    def effects(self) -> tuple[Change, ...]:
        """Everything that really changed something, in order."""
        with self._world.lock:
            return tuple(self._world.effects)

    @property
    def ran_twice(self) -> frozenset[str]:
        """VMs that were started at one site while they ran at the other."""
        with self._world.lock:
            return frozenset(self._world.ran_twice)

    def vm(self, name: str, site: str) -> Machine:
        """One end of a VM, or its test copy."""
        return next(machine for machine in self._world.ends(name) if machine.site == site)

    def node(self, name: str) -> Node:
        return self._world.nodes[name]

    @property
    def lock(self) -> Any:
        """Held while several things are changed at once."""
        return self._world.lock
