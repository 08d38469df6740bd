"""Sees on which nodes a VM runs, whatever the product says: from QEMU's processes and libvirt's own status files.

Looked at some twenty times a second. A QEMU whose guest is paused, or has ended, does not run the VM: it may be there
to be read. A test copy is another domain.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from failover_orch.lab import Lab

__all__ = ["Life", "Oracle"]

_EVERY_S = 0.05
_QEMU = "qemu-system-x86"
_NAME = re.compile(rb"-name\0guest=([^,\0]+)")
_STATE = re.compile(r"<domstatus state='([a-z]+)'")
_NOT_RUNNING = frozenset({"", "nostate", "paused", "shutdown", "shutoff", "crashed"})


@dataclass(slots=True)
class Life:
    """One QEMU of one domain. Times are monotonic, in seconds; `ran_s` 0: its guest was never seen to run."""

    node: str
    domain: str
    pid: int
    began_s: float
    seen_s: float
    ran_s: float = 0.0
    runs: bool = False


class Oracle:
    """Watches all nodes of a lab in a thread of its own, within `with`."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._namespaces: Mapping[int, str] = {}
        self._lives: list[Life] = []
        self._present: dict[int, Life] = {}
        self._others: set[int] = set()
        self._twice: list[str] = []
        self._looks = 0
        self._failure: BaseException | None = None
        self._closing = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        nodes = self._lab.nodes.values()
        self._namespaces = {Path("/run/netns", node.run[-1]).stat().st_ino: node.name for node in nodes}
        self._watching.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        self._watching.join()

    @property
    def looks(self) -> int:
        """How often it has looked."""
        return self._looks

    def violations(self) -> list[str]:
        """When a domain was seen to run on two nodes at once, with both of its QEMUs."""
        self._check()
        return list(self._twice)

    def runs_on(self, domain: str) -> list[str]:
        """The nodes on which the domain runs now."""
        self._check()
        return sorted(life.node for life in list(self._present.values()) if life.domain == domain and life.runs)

    def lives(self, domain: str, *, since_s: float = 0.0) -> list[Life]:
        """Those of its QEMUs that ran the guest, and were first seen to since then."""
        self._check()
        return [life for life in list(self._lives) if life.domain == domain and life.ran_s and life.ran_s >= since_s]

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _watch(self) -> None:
        try:
            while not self._closing.wait(_EVERY_S):
                self._look()
                self._looks += 1
        except BaseException as error:  # noqa: BLE001 (raised again where the test looks)
            self._failure = error

    def _look(self) -> None:
        now = time.monotonic()
        pids = {int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()}
        self._others &= pids
        for pid in pids - self._others - self._present.keys():
            self._classify(pid, now)
        for pid, life in list(self._present.items()):
            if pid not in pids or _ended(pid):
                life.runs = False
                del self._present[pid]
                continue
            life.seen_s = now
            life.runs = self._state(life) not in _NOT_RUNNING
            if life.runs and not life.ran_s:
                life.ran_s = now
        self._compare()

    def _classify(self, pid: int, now: float) -> None:
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            if name != _QEMU:
                # A QEMU to be is called after libvirtd for a moment, or after one of libvirtd's threads.
                if not name.startswith(("libvirtd", "daemon-init", "prio-rpc", "rpc-", "qemu")):
                    self._others.add(pid)
                return
            found = _NAME.search(Path(f"/proc/{pid}/cmdline").read_bytes())
            node = self._namespaces.get(Path(f"/proc/{pid}/ns/net").stat().st_ino)
        except (FileNotFoundError, ProcessLookupError):
            return
        if found is None or node is None:
            # What libvirt asks QEMU what it can do has no name; and there may be other labs on this machine.
            self._others.add(pid)
            return
        life = Life(node, found[1].decode(), pid, now, now)
        self._present[pid] = life
        self._lives.append(life)

    def _state(self, life: Life) -> str:
        """What libvirt has written down of it, last."""
        status = self._lab.node(life.node).directory / "run" / "qemu" / f"{life.domain}.xml"
        with suppress(FileNotFoundError):
            found = _STATE.search(status.read_text(errors="replace"))
            return found[1] if found is not None else ""
        return ""

    def _compare(self) -> None:
        running: dict[str, list[Life]] = {}
        for life in self._present.values():
            if life.runs:
                running.setdefault(life.domain, []).append(life)
        for domain, lives in running.items():
            if len(lives) > 1:
                where = " and ".join(f"{life.node} (pid {life.pid})" for life in lives)
                self._twice.append(f"{domain} ran on {where} at {time.strftime('%H:%M:%S')}")


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
