"""A lab: sites of libvirt nodes on this machine, to break as one likes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from failover_orch.errors import LabError
from failover_orch.lab.commands import background, end_processes, namespaces, processes_in, run
from failover_orch.lab.dhcp import lease_command
from failover_orch.lab.network import BLOCKS, LanAddresses, make_network, owner, plan_network, remove_network
from failover_orch.lab.node import LabNode, NodeProcesses
from failover_orch.lab.probing import fetch_json, in_namespace

__all__ = ["Lab"]

RECORD = "lab.json"


class Lab:
    """Sites of libvirt nodes in network namespaces, joined by a wide area network that can be cut.

    Any number of these may stand for the same directory: what is so is in the directory and in the kernel. The methods
    block; from async code call them with `asyncio.to_thread`.
    """

    def __init__(self, directory: Path, nodes: Mapping[str, str], *, name: str = "", kvm: bool = False) -> None:
        """`nodes` maps each node to its site. `name` prefixes the lab's namespaces; by default made of the directory.

        With `kvm` guests may use it; without, its device is hidden from the nodes.

        Raises:
            LabError: a name that cannot be one, too many sites or nodes.

        """
        self.directory = directory.absolute()
        self.name = name or "lab" + hashlib.sha256(str(self.directory).encode()).hexdigest()[:6]
        self._sites = dict(nodes)
        self._kvm = kvm
        self._plan = plan_network(self.name, self._recorded_block() or BLOCKS.start, self._sites)

    @property
    def nodes(self) -> Mapping[str, LabNode]:
        """All nodes by name. Their addresses are known once the lab was started."""
        return MappingProxyType({name: self._node(name) for name in self._sites})

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self._plan.sites)

    @property
    def root_address(self) -> str:
        """The root namespace's address as the sites see it."""
        return str(self._plan.root4.ip)

    @property
    def run_outside(self) -> tuple[str, ...]:
        """The prefix with which a command runs in the third place, from where VMs of all sites can be reached."""
        return ("ip", "netns", "exec", self._plan.wan)

    def run_in(self, site: str) -> tuple[str, ...]:
        """The prefix with which a command runs inside a site: a site agent, say."""
        return ("ip", "netns", "exec", self._plan.sites[self._known_site(site)].namespace)

    def site_address(self, site: str) -> str:
        """Where what is run in a site can be reached by the others, the root namespace and its own nodes."""
        return str(self._plan.sites[self._known_site(site)].gateway.ip)

    def lan(self, site: str) -> LanAddresses:
        """The addresses of a site's VM network."""
        return self._plan.sites[self._known_site(site)].lan

    def node(self, name: str) -> LabNode:
        """One node.

        Raises:
            LabError: there is no such node.

        """
        if name not in self._sites:
            raise LabError(f"the lab has no node {name!r}; it has {', '.join(self._sites)}")
        return self._node(name)

    def start(self) -> None:
        """Make the network and start all nodes; first remove what is left of an earlier lab in the same directory.

        Raises:
            LabError: something is missing or failed. Nothing of the lab is left then.

        """
        if os.geteuid() != 0:
            raise LabError("a lab makes network namespaces and runs libvirtd, which only root may: run this as root")
        self.stop()
        if self.directory.exists() and any(self.directory.iterdir()):
            raise LabError(f"{self.directory} holds something else: give the lab an empty directory, or one to be made")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with _alone():
                self._plan = plan_network(self.name, _free_block(), self._sites)
                self._record()
                make_network(self._plan, self.directory)
            for site in self._plan.sites.values():
                directory = self.directory / "sites" / site.name
                directory.mkdir(parents=True)
                (self.directory / "storage" / site.name).mkdir(parents=True)
                background(*self.run_in(site.name), *lease_command(site, directory), output=directory / "dnsmasq.log")
            with ThreadPoolExecutor() as pool:
                list(pool.map(self.power_on, self.nodes))
        except BaseException:
            # Ctrl-C too: a start leaves all of it running, or nothing.
            self.stop()
            raise

    def stop(self) -> None:
        """End every process of the lab, and remove its namespaces, links and files. Nothing to do is no error.

        Raises:
            LabError: something could not be ended; or the lab of this name is another directory's.

        """
        other = owner(self.name)
        if other not in (None, self.directory):
            raise LabError(
                f"the lab named {self.name} is that of {other}: stop that one first, or name this one otherwise"
            )
        ours = [namespace for namespace in namespaces() if namespace.startswith(f"{self.name}-")]
        end_processes(lambda: [pid for namespace in ours for pid in processes_in(namespace)])
        remove_network(self.name, ours)
        record = self.directory / RECORD
        if record.exists():
            # The record goes last: it is what tells that the rest may be removed.
            for path in self.directory.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path != record:
                    path.unlink()
            shutil.rmtree(self.directory)

    def cut_link(self, site: str) -> None:
        """Cut a site off from the other sites, the third place and the root namespace. Inside it all goes on.

        Nothing tells the site: what it sends is lost without a word.
        """
        self._set_port(site, "0")

    def restore_link(self, site: str) -> None:
        """Undo `cut_link`."""
        self._set_port(site, "3")

    def kill_daemon(self, node: str) -> None:
        """SIGKILL libvirtd alone; the VMs go on."""
        self._processes(node).signal_daemon(signal.SIGKILL)

    def start_daemon(self, node: str) -> None:
        """Start libvirtd where it does not run."""
        self._processes(node).start_daemon()

    def pause_daemon(self, node: str) -> None:
        """Stop libvirtd without ending it (SIGSTOP): connections stay and nothing is answered."""
        self._processes(node).signal_daemon(signal.SIGSTOP)

    def resume_daemon(self, node: str) -> None:
        """Undo `pause_daemon`."""
        self._processes(node).signal_daemon(signal.SIGCONT)

    def power_off(self, node: str) -> None:
        """Cut a node's power: its libvirtd and its VMs end at once."""
        self._processes(node).power_off()

    def power_on(self, node: str) -> None:
        """Give a node its power back; its VMs stay off."""
        self._processes(node).power_on()

    def powered(self, node: str) -> bool:
        return self._processes(node).powered

    def qemu_pids(self, node: str) -> list[int]:
        """The pids of the VMs that run on a node."""
        return self._processes(node).qemu_pids()

    def page(self, address: str, *, timeout_s: float = 2.0) -> dict[str, Any]:
        """The page of the guest at an IPv4 or IPv6 address, asked for from the third place.

        `{"name", "boot", "source", "counter", "counter2"?, "addresses", "dns"}`: see `guest/root/www`.

        Raises:
            OSError: it does not answer within `timeout_s` seconds.

        """
        url = f"http://[{address}]/" if ":" in address else f"http://{address}/"
        return in_namespace(self._plan.wan, lambda: fetch_json(url, timeout_s=timeout_s))

    def answers_ping(self, address: str) -> bool:
        """Whether an address answers a ping from the third place within a second."""
        try:
            run(*self.run_outside, "ping", "-n", "-q", "-c", "1", "-W", "1", address)
        except LabError:
            return False
        return True

    def _processes(self, node: str) -> NodeProcesses:
        return NodeProcesses(self.node(node), self._plan.node_namespace(node), kvm=self._kvm)

    def _node(self, name: str) -> LabNode:
        site = self._plan.sites[self._sites[name]]
        directory = self.directory / "nodes" / name
        address = str(site.nodes[name].ip)
        return LabNode(
            name=name,
            site=site.name,
            uri=f"qemu+unix:///system?socket={directory / 'run' / 'libvirt-sock'}",
            tcp_uri=f"qemu+tcp://{address}/system",
            address=address,
            run=("ip", "netns", "exec", self._plan.node_namespace(name)),
            storage=self.directory / "storage" / site.name,
            directory=directory,
        )

    def _known_site(self, site: str) -> str:
        if site not in self._plan.sites:
            raise LabError(f"the lab has no site {site!r}; it has {', '.join(self._plan.sites)}")
        return site

    def _set_port(self, site: str, state: str) -> None:
        port = self._plan.sites[self._known_site(site)].port
        run("bridge", "-n", self._plan.wan, "link", "set", "dev", port, "state", state)

    def _record(self) -> None:
        (self.directory / RECORD).write_text(json.dumps({"name": self.name, "block": self._plan.block}) + "\n")

    def _recorded_block(self) -> int | None:
        try:
            return int(json.loads((self.directory / RECORD).read_text())["block"])
        except (FileNotFoundError, KeyError, TypeError, ValueError):
            return None


@contextmanager
def _alone() -> Iterator[None]:
    """Hold off other labs of this machine while one takes its addresses."""
    directory = os.open("/run", os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _free_block() -> int:
    """A number N such that no lab on this machine has 10.99.N.0/24."""
    links = json.loads(run("ip", "-json", "-4", "addr"))
    taken = {address["local"].rpartition(".")[0] for link in links for address in link.get("addr_info", ())}
    free = next((block for block in BLOCKS if f"10.99.{block}" not in taken), None)
    if free is None:
        raise LabError("every network from 10.99.1.0/24 to 10.99.254.0/24 is taken on this machine")
    return free
