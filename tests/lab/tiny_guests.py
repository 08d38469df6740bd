"""Tiny guests for the lab's own tests, driven with virsh."""

from __future__ import annotations

import base64
import json
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from failover_orch.lab import Lab
from failover_orch.lab.guest import GuestAdapter, domain_xml, guest_image, make_data_disk

__all__ = ["Guest", "Guests", "until", "virsh"]

PATIENCE_S = 40.0
MAC = "52:54:00:00:00:21"


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def virsh(lab: Lab, node: str, *arguments: str) -> str:
    done = subprocess.run(
        ["virsh", "--quiet", "--connect", lab.node(node).uri, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"virsh {' '.join(arguments)}: {done.stderr}"
    return done.stdout


@dataclass(slots=True)
class Guest:
    """A tiny guest. `node` is where it is; a test that moves it says so."""

    lab: Lab
    name: str
    node: str
    disks: list[Path]

    def virsh(self, command: str, *arguments: str) -> str:
        return virsh(self.lab, self.node, command, self.name, *arguments)

    def start(self) -> None:
        self.virsh("start")

    def off(self) -> bool:
        return self.virsh("domstate").strip() == "shut off"

    def agent_answers(self) -> bool:
        try:
            self.virsh("qemu-agent-command", '{"execute": "guest-ping"}')
        except AssertionError:
            return False
        return True

    def ask(self, command: str, **arguments: Any) -> Any:
        """Have the guest's agent do something."""
        return json.loads(self.virsh("qemu-agent-command", json.dumps({"execute": command, "arguments": arguments})))[
            "return"
        ]

    def run(self, script: str, *, stdin: str = "") -> str:
        """Run a shell script in the guest."""
        until(self.agent_answers, "the guest's agent")
        given = base64.b64encode(stdin.encode()).decode()
        started = {"path": "/bin/sh", "arg": ["-c", script], "capture-output": True, "input-data": given}
        pid = self.ask("guest-exec", **started)["pid"]
        while not (status := self.ask("guest-exec-status", pid=pid))["exited"]:
            time.sleep(0.05)
        assert status["exitcode"] == 0, base64.b64decode(status.get("err-data", "")).decode()
        return base64.b64decode(status.get("out-data", "")).decode()

    def page(self, address: str) -> dict[str, Any]:
        """The guest's page, once there is one."""
        pages: list[dict[str, Any]] = []

        def asked() -> bool:
            try:
                pages.append(self.lab.page(address))
            except OSError:
                return False
            return True

        until(asked, f"a page at {address}")
        return pages[0]


class Guests:
    """Makes guests with names and disks of their own."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._made: list[Guest] = []

    def make(
        self,
        node: str = "p1",
        *,
        netcfg: str = f"mac={MAC} v4=10.10.0.21/24 gw4=10.10.0.1 v6=fd10::21/64 gw6=fd10::1 dns=10.10.0.1,fd10::1",
        adapters: Sequence[GuestAdapter] = (GuestAdapter(MAC),),
        disks: int = 1,
        **settings: Any,
    ) -> Guest:
        """Define a guest; it is off."""
        name, place = f"guest-{uuid.uuid4().hex[:8]}", self._lab.node(node)
        paths = [place.storage / f"{name}-{number}.qcow2" for number in range(disks)]
        for number, path in enumerate(paths):
            make_data_disk(path, netcfg="" if number else netcfg)
        xml = place.directory / f"{name}.xml"
        xml.write_text(
            domain_xml(
                name,
                guest_image(),
                uuid=str(uuid.uuid4()),
                disks=paths,
                adapters=adapters,
                serial_log=place.directory / f"{name}.log",
                **settings,
            )
        )
        virsh(self._lab, node, "define", str(xml))
        guest = Guest(self._lab, name, node, paths)
        self._made.append(guest)
        return guest

    def clear(self) -> None:
        for guest in self._made:
            if not guest.off():
                guest.virsh("destroy")
            guest.virsh("undefine")
