"""Two sites of a libvirt node each with one real VM between them, and all the processes around: made, struck, ended.

    root namespace   Kafka, worker, witness in a third place, both nodes' management controllers
    primary          node p1, site agent                 the VM `web`, which replicates every other second
    dr               node d1, site agent

Each site can cut the power of the other's node, so that whichever has the VM may be lost. All methods block.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

import yaml

from failover_orch.config import Settings
from failover_orch.demo.processes import Processes
from failover_orch.demo.vms.machines import Machine, machines_of, make
from failover_orch.errors import LabError
from failover_orch.kafka import LocalKafka, create_topics, desired_topics
from failover_orch.lab import Lab, LabNode
from failover_orch.lab.bmc import BmcFault, IpmiBmc
from failover_orch.lab.guest import guest_image
from failover_orch.processes import recorded
from failover_orch.topology import Topology, bundled, load

__all__ = [
    "AGENTS",
    "DR",
    "EVERY_S",
    "PRIMARY",
    "SECOND_PORT",
    "THIRD_PLACE",
    "VM",
    "Installation",
    "installed",
    "other",
]

PRIMARY, DR = "primary", "dr"
NODES = {"p1": PRIMARY, "d1": DR}
VM = "web"
THIRD_PLACE = "third"
EVERY_S = 2
"""The replication interval."""
AGENTS = {PRIMARY: "agent-primary", DR: "agent-dr"}
PORT, SECOND_PORT = 8440, 8441
"""Where a site's agent takes replication, and where a second agent of the site does."""
_LIBVIRT_PORT = 16509
_LAST_LINES = 100
_MARK = "failover_orch"
_SESSION_TIMEOUT_S = 4.0
_FENCE_TIMEOUT_S = 5


def other(site: str) -> str:
    """The site that is not this one."""
    return DR if site == PRIMARY else PRIMARY


@contextmanager
def installed(*, keep: bool = False) -> Iterator[Installation]:
    """An installation whose VM runs at the primary site. With `keep` its logs and disks stay."""
    # A short path: those of sockets may have 107 characters.
    directory = Path(mkdtemp(prefix="fo-", dir="/tmp"))
    installation = Installation(directory)
    try:
        installation.start()
        yield installation
    finally:
        installation.stop(keep=keep)


class Installation:
    """All of it, in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lab = Lab(directory / "lab", NODES)
        self.topology: Topology = load(bundled("demo-vms"))
        self.machine: Machine = next(each for each in machines_of(self.topology) if each.vm_id == VM)
        self.settings = Settings()
        self.bmcs: Mapping[str, IpmiBmc] = {}
        """The management controllers of the sites' nodes, by site."""
        self._kafka: LocalKafka | None = None
        self._processes = Processes(directory, {})
        self._commands: dict[str, tuple[tuple[str, ...], Sequence[str]]] = {}
        self._paused: set[str] = set()

    def start(self) -> None:
        """Start everything; the VM runs when this returns, and is not replicated yet."""
        image = guest_image()
        self.lab.start()
        kafka = self._kafka = LocalKafka(self.directory / "kafka", brokers=1, address=self.lab.root_address)
        (self.directory / "serial").mkdir()
        with ThreadPoolExecutor() as pool:
            made = pool.submit(make, self.machine, self.node(PRIMARY), image, self.directory / "serial")
            pool.submit(kafka.start).result()
            made.result()
            self.settings = Settings(
                bootstrap=kafka.bootstrap, app_id="vms", partitions=2, session_timeout=_SESSION_TIMEOUT_S
            )
            desired = desired_topics(self.settings, (PRIMARY, DR), 1)
            # In a thread: this one may have an event loop already.
            pool.submit(asyncio.run, create_topics(self.settings.bootstrap, desired)).result()
        self._processes = Processes(
            self.directory,
            {
                "FAILOVER_ORCH_BOOTSTRAP": self.settings.bootstrap,
                "FAILOVER_ORCH_APP_ID": self.settings.app_id,
                "FAILOVER_ORCH_PARTITIONS": str(self.settings.partitions),
                "FAILOVER_ORCH_SESSION_TIMEOUT": str(self.settings.session_timeout),
                "FAILOVER_ORCH_LOG": "INFO",
            },
        )
        self._start_bmcs()
        self._write_site_files()
        self.launch("worker", "worker")
        # The one that takes delivery first: the other would begin with a missed cycle.
        for site in (DR, PRIMARY):
            self.start_agent(site)
        watched = [f"{node.site}/{node.name}={node.address}:{_LIBVIRT_PORT}" for node in self.lab.nodes.values()]
        watched += [f"{site}={self.lab.site_address(site)}:{PORT}" for site in (PRIMARY, DR)]
        options = [word for endpoint in watched for word in ("--watch", endpoint)]
        self.launch("witness", "witness", "--place", THIRD_PLACE, "--every", "0.5", *options)

    def stop(self, *, keep: bool = False) -> None:
        """End everything, and with `keep` leave the logs."""
        for name in tuple(self._paused):
            self.resume(name)
        for name in self._commands:
            self._processes.kill(name)
        for bmc in self.bmcs.values():
            bmc.stop()
        if self._kafka is not None:
            self._kafka.stop(grace_s=0)
        if not keep:
            self.lab.stop()
            shutil.rmtree(self.directory, ignore_errors=True)
            return
        for node in NODES:
            with suppress(LabError):
                shutil.copytree(self.lab.node(node).directory / "log", self.directory / f"log-{node}")
        self.lab.stop()

    # Where things are

    def node(self, site: str) -> LabNode:
        """The site's only node."""
        return next(node for node in self.lab.nodes.values() if node.site == site)

    def pid(self, name: str) -> int:
        """The pid of a process that runs."""
        pid = recorded(self.directory / f"{name}.pid", mark=_MARK)
        assert pid is not None, f"{name} does not run; its log is {self.log(name)}"
        return pid

    def log(self, name: str) -> Path:
        """What a process says, in all its lives."""
        return self.directory / f"{name}.log"

    def require_alive(self) -> None:
        """See that whatever was started still runs, unless it was killed here."""
        self._processes.require_alive()

    def show(self) -> None:
        """Print the last lines of every log: pytest shows them where a test fails."""
        for log in sorted(self.directory.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()
            sys.stdout.writelines([f"--- {log.name}\n", *(f"{line}\n" for line in lines[-_LAST_LINES:])])

    # Faults

    def launch(self, name: str, *arguments: str, run: Sequence[str] = ()) -> None:
        """Start a process that was not there before."""
        self._commands[name] = (arguments, run)
        self._processes.start(name, *arguments, run=run)

    def start_agent(self, site: str, *, name: str = "", port: int = PORT) -> None:
        """Start an agent inside a site; a second one of the site takes replication at another port."""
        name = name or AGENTS[site]
        file = self.directory / f"{site}-{port}.yaml"
        self.launch(name, "site-agent", "--config", str(file), run=self.lab.run_in(site))

    def kill(self, name: str) -> None:
        """SIGKILL a process."""
        self._processes.kill(name)

    def start_again(self, name: str) -> None:
        """Start a process that was killed."""
        arguments, run = self._commands[name]
        self._processes.start(name, *arguments, run=run)

    def forget(self, name: str) -> None:
        """Kill a process for good."""
        self._processes.kill(name)
        del self._commands[name]

    def pause(self, name: str) -> None:
        """SIGSTOP a process: it does not know how long it stands."""
        os.kill(self.pid(name), signal.SIGSTOP)
        self._paused.add(name)

    def resume(self, name: str) -> None:
        """Let a paused process go on, if it was not killed meanwhile."""
        self._paused.discard(name)
        pid = recorded(self.directory / f"{name}.pid", mark=_MARK)
        if pid is not None:
            os.kill(pid, signal.SIGCONT)

    def recover(self) -> None:
        """Have everything run, all power on and both links whole."""
        for name in tuple(self._paused):
            self.resume(name)
        for site, bmc in self.bmcs.items():
            bmc.fault = BmcFault.NONE
            self.lab.restore_link(site)
            self.lab.power_on(self.node(site).name)
            self.lab.start_daemon(self.node(site).name)
        for name in self._commands:
            if recorded(self.directory / f"{name}.pid", mark=_MARK) is None:
                self.start_again(name)

    def _start_bmcs(self) -> None:
        password = secrets.token_hex(8)
        _write_secret(self.directory / "bmc.secret", password)
        self.bmcs = {site: self._bmc(self.node(site).name, password) for site in (PRIMARY, DR)}
        for bmc in self.bmcs.values():
            bmc.start()

    def _bmc(self, node: str, password: str) -> IpmiBmc:
        """Out of band: it answers also where its site's link is cut."""
        lab = self.lab
        return IpmiBmc(
            lambda: lab.powered(node), lambda: lab.power_off(node), address=lab.root_address, password=password
        )

    # Site files

    def _write_site_files(self) -> None:
        _write_secret(self.directory / "replication.key", secrets.token_urlsafe(32))
        for site in (PRIMARY, DR):
            for port in (PORT, SECOND_PORT):
                content = {
                    "site": site,
                    "agent": {"report_every": 1, "evidence_every": 1},
                    "hypervisor": self._hypervisor(site, port),
                    "fences": [self._fence(other(site))],
                }
                file = self.directory / f"{site}-{port}.yaml"
                file.write_text(yaml.safe_dump(content, sort_keys=False, width=120))

    def _hypervisor(self, site: str, port: int) -> dict[str, object]:
        node, there = self.node(site), other(site)
        settings: dict[str, object] = {
            "kind": "libvirt",
            "cluster": f"{site}-cluster",
            "broker": f"{site}-broker",
            "nodes": [{"name": node.name, "uri": node.tcp_uri, "run": list(node.run), "storage": str(node.storage)}],
            "networks": {f"{site}-lan": node.bridge},
            "test_networks": {f"isolated-{site}": node.test_bridge},
            "listen": f"{self.lab.site_address(site)}:{port}",
            "key_file": "replication.key",
            "plaintext": True,
            "inject": "fw_cfg",
            "answers": "ping",
            "peers": {there: {"nodes": {self.node(there).name: f"http://{self.lab.site_address(there)}:{PORT}"}}},
        }
        if site == PRIMARY:
            settings["replicate"] = [
                {
                    "vm": VM,
                    "id": VM,
                    "to": DR,
                    "node": self.node(DR).name,
                    "every": EVERY_S,
                    "points": 4,
                    "system": self.machine.system,
                    "application": self.machine.application,
                }
            ]
        return settings

    def _fence(self, site: str) -> dict[str, object]:
        bmc = self.bmcs[site]
        return {
            "site": site,
            "node": self.node(site).name,
            "agent": "ipmi",
            "host": bmc.host,
            "port": bmc.port,
            "user": "admin",
            "password_file": "bmc.secret",
            "timeout": _FENCE_TIMEOUT_S,
        }


def _write_secret(path: Path, secret: str) -> None:
    path.touch(mode=0o600)
    path.write_text(f"{secret}\n")
