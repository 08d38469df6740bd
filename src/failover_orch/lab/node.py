"""One node of a lab: a libvirtd and its QEMUs, in namespaces of their own, on this machine.

libvirtd's paths are fixed where it runs as root, so each node's are bound in its own mount namespace. Its processes
live in a process namespace of their own, whose first process keeps it open: with that one all of them end at one blow,
which is what a power cut does.
"""

from __future__ import annotations

import os
import shutil
import signal
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from failover_orch.errors import LabError
from failover_orch.lab.commands import await_condition, background, end_processes, processes_in, run

__all__ = ["LabNode", "NodeProcesses"]

START_TIMEOUT_S = 30.0
PIDFILE_WAIT_S = 10.0
BOUND = {
    "etc": "/etc/libvirt",
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "log": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
    "hosts": "/etc/hosts",
    "resolv.conf": "/etc/resolv.conf",
}
"""Where the node looks for what lies in its directory."""
LONGEST_SOCKET_PATH = 107

FIRST_PROCESS = """
set -eu
trap ': >"$2/failed"' EXIT
hostname "$1"
mount --make-rprivate /
{binds}
{hide_kvm}
: > /run/libvirt/ready
# bash reaps whatever loses its parent in this process namespace; `wait` only keeps it here.
while :; do sleep 86400 & wait $! || :; done
"""

HIDE_KVM = """
if [ -e /dev/kvm ]; then
    # Not to be written, whoever asks: where libvirt could open it, but QEMU has no KVM, libvirt takes what it knows of
    # QEMU for out of date and asks QEMU all over again, seconds long, whenever a domain is defined or started.
    : > "$2/run/no-kvm"
    mount --bind "$2/run/no-kvm" /dev/kvm
    mount -o remount,bind,ro /dev/kvm
fi
"""

LIBVIRTD_CONF = """\
listen_tls = 0
listen_tcp = 1
listen_addr = "{address}"
auth_tcp = "none"
auth_unix_rw = "none"
host_uuid = "{host_uuid}"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""

QEMU_CONF = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
migration_address = "{address}"
migration_host = "{address}"
"""


@dataclass(frozen=True, slots=True)
class LabNode:
    """One libvirt node.

    `uri` is for this machine's root namespace; `tcp_uri` also for the site's and the other sites' processes. `run` is
    the prefix with which a command runs on the node. `storage` is where the site's disks lie: its nodes share it, as on
    a cluster volume. `directory` is the node's own.
    """

    name: str
    site: str
    uri: str
    tcp_uri: str
    address: str
    run: tuple[str, ...]
    storage: Path
    directory: Path
    bridge: str = "br0"
    test_bridge: str = "br-test"


class NodeProcesses:
    """Power and processes of one node. What is so is asked of the kernel, so any number of these may stand for one."""

    def __init__(self, node: LabNode, namespace: str, *, kvm: bool = False) -> None:
        self.node = node
        self.namespace = namespace
        self._kvm = kvm

    @property
    def powered(self) -> bool:
        return self._first() is not None

    def power_on(self) -> None:
        """Start the node and its libvirtd. VMs stay off unless libvirt starts them by itself.

        Raises:
            LabError: it did not come up; with the last thing it said.

        """
        if self.powered:
            return
        self._write_files()
        directory = self.node.directory
        binds = "\n".join(f'mount --bind "$2/{name}" {path}' for name, path in BOUND.items())
        hide = "" if self._kvm else HIDE_KVM
        script = FIRST_PROCESS.format(binds=binds, hide_kvm=hide)
        (directory / "failed").unlink(missing_ok=True)
        background(
            *self.node.run,
            *("unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc"),
            *("bash", "-c", script, "node", self.node.name, str(directory)),
            output=directory / "console.log",
        )
        ready, failed = directory / "run" / "ready", directory / "failed"
        if not await_condition(lambda: ready.exists() or failed.exists(), START_TIMEOUT_S) or failed.exists():
            raise LabError(f"node {self.node.name} did not come up: {self._last_words('console.log')}")
        self.start_daemon()

    def power_off(self) -> None:
        """Cut the power: whatever runs on the node ends at once, and its /run is lost. Its disks stay."""
        end_processes(lambda: processes_in(self.namespace))

    def start_daemon(self) -> None:
        """Start libvirtd, where it does not run, and return when it answers.

        Raises:
            LabError: the node is without power, or libvirtd did not come up; with the last thing it said.

        """
        first = self._first()
        if first is None:
            raise LabError(f"libvirtd cannot be started on {self.node.name}: the node is without power")
        if self.daemon_pid() is not None:
            return
        inside = ("nsenter", "--target", str(first), "--mount", "--uts", "--pid", "--net", "--")
        try:
            # The threads of one that was killed just now may hold its pid file for a moment after it has left the node.
            began = await_condition(lambda: self._began(inside), PIDFILE_WAIT_S)
            if began:
                run("virsh", "--quiet", "--connect", self.node.uri, "version")
        except LabError as error:
            said = self._last_words("log/libvirtd.log")
            raise LabError(f"libvirtd on {self.node.name} did not come up: {error}; its log ends: {said}") from error
        if not began:
            raise LabError(f"libvirtd on {self.node.name} did not come up: another one holds its pid file")

    def _began(self, inside: Sequence[str]) -> bool:
        """Whether a libvirtd was started; not where its pid file is still held."""
        try:
            run(*inside, "libvirtd", "--listen", "--daemon", "--pid-file", "/run/libvirt/libvirtd.pid")
        except LabError as error:
            if "obtain pidfile" not in str(error):
                raise
            return False
        return True

    def signal_daemon(self, number: signal.Signals) -> None:
        """Send libvirtd alone a signal. After SIGKILL it is gone when this returns.

        Raises:
            LabError: it does not run.

        """
        pid = self.daemon_pid()
        if pid is None:
            raise LabError(f"libvirtd does not run on {self.node.name}")
        os.kill(pid, number)
        if number is signal.SIGKILL:
            end_processes(lambda: [pid] if self.daemon_pid() == pid else [])

    def daemon_pid(self) -> int | None:
        """The pid of libvirtd as this machine counts them; None where it does not run."""
        try:
            inner = int((self.node.directory / "run" / "libvirtd.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None
        # A child that is about to become a QEMU is called libvirtd too for a moment.
        return next((pid for pid in self._named("libvirtd") if _inner_pid(pid) == inner), None)

    def qemu_pids(self) -> list[int]:
        """The pids of the node's QEMUs, as this machine counts them."""
        return self._named("qemu-system-x86")

    def _named(self, name: str) -> list[int]:
        return [pid for pid in processes_in(self.namespace) if _comm(pid) == name and _depth(pid) > 1]

    def _first(self) -> int | None:
        """The first process of the node's process namespace."""
        return next((pid for pid in processes_in(self.namespace) if _inner_pid(pid) == 1 and _depth(pid) > 1), None)

    def _write_files(self) -> None:
        directory, address = self.node.directory, self.node.address
        if len(str(directory / "run" / "libvirt-sock")) > LONGEST_SOCKET_PATH:
            raise LabError(
                f"{directory / 'run' / 'libvirt-sock'} is longer than the {LONGEST_SOCKET_PATH} characters that a "
                "socket's path may have: give the lab a directory with a shorter path"
            )
        shutil.rmtree(directory / "run", ignore_errors=True)  # /run does not outlive a power cut
        for name, path in BOUND.items():
            if "libvirt" in path:
                (directory / name).mkdir(parents=True, exist_ok=True)
                Path(path).mkdir(parents=True, exist_ok=True)
        # libvirtd looks its own name up, again and again: without an answer at hand it waits for name servers.
        (directory / "hosts").write_text(f"127.0.0.1 localhost\n{address} {self.node.name}\n")
        (directory / "resolv.conf").write_text("")
        host_uuid = uuid.uuid5(uuid.NAMESPACE_URL, str(directory))
        (directory / "etc" / "libvirtd.conf").write_text(LIBVIRTD_CONF.format(address=address, host_uuid=host_uuid))
        (directory / "etc" / "qemu.conf").write_text(QEMU_CONF.format(address=address))

    def _last_words(self, log: str) -> str:
        try:
            lines = (self.node.directory / log).read_text(errors="replace").strip().splitlines()
        except FileNotFoundError:
            lines = []
        return f"{lines[-1] if lines else 'nothing'} (see {self.node.directory / log})"


def _status(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _comm(pid: int) -> str:
    return _status(pid).get("Name", "")


def _depth(pid: int) -> int:
    """How many process namespaces deep a process is, counted from ours."""
    return len(_status(pid).get("NSpid", "").split())


def _inner_pid(pid: int) -> int:
    """A process's pid in its own process namespace."""
    return int((_status(pid).get("NSpid", "").split() or ["0"])[-1])
