"""A plain client of the stand-in's own tests: pypsrp, with no driver between."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import requests
from pypsrp.exceptions import WinRMError
from pypsrp.powershell import PowerShell, RunspacePool
from pypsrp.wsman import WSMan

from hyperv.doors import Door
from hyperv.standin import StandIn

__all__ = ["Answered", "Asked", "ask", "connection", "named", "runspaces"]

Asked = tuple[str, dict[str, Any]]
"""A cmdlet and its parameters."""


class Answered:
    """What a pipeline came to: objects as their properties, errors by their ids."""

    def __init__(self, shell: PowerShell, output: list[Any]) -> None:
        self.output = [
            each.adapted_properties | each.extended_properties if hasattr(each, "adapted_properties") else each
            for each in output
        ]
        self.failed = bool(shell.had_errors)
        self.errors = [str(error.fq_error) for error in shell.streams.error]
        self.messages = [str(error) for error in shell.streams.error]


def connection(stand_in: StandIn, door: Door, *, password: str = "", **options: Any) -> WSMan:
    """A connection that verifies the node's certificate, or else encrypts every message."""
    settings: dict[str, Any] = {
        "port": door.port,
        "ssl": door.ssl,
        "auth": door.auth,
        "username": stand_in.username,
        "password": password or stand_in.password,
        "encryption": "auto" if door.ssl else "always",
        "no_proxy": True,
        "operation_timeout": 5,
        "read_timeout": 7,
    }
    if door.ssl:
        settings["cert_validation"] = str(stand_in.ca_file)
    return WSMan(door.host, **(settings | options))


@contextlib.contextmanager
def runspaces(
    stand_in: StandIn, node: str = "p1", *, auth: str = "basic", seen_from: str = "", count: int = 1, **options: Any
) -> Iterator[RunspacePool]:
    """An open pool on a node, reached from within its site unless another is named."""
    door = stand_in.door(node, seen_from=seen_from or stand_in.node(node).site, auth=auth)
    connected = connection(stand_in, door, **options)
    pool = RunspacePool(connected, max_runspaces=count)
    try:
        pool.open()
        yield pool
    finally:
        # The test may have cut it off.
        with contextlib.suppress(requests.RequestException, WinRMError):
            pool.close()
        connected.close()


def ask(pool: RunspacePool, *commands: Asked) -> Answered:
    """Run the commands as one pipeline."""
    shell = PowerShell(pool)
    for name, parameters in commands:
        shell.add_cmdlet(name).add_parameters(parameters)
    return Answered(shell, shell.invoke())


def named(vm: str, cmdlet: str, **parameters: Any) -> tuple[Asked, ...]:
    """A cmdlet that changes something, for a VM by its name, to be run without asking back."""
    return ("Get-VM", {"Name": vm}), (cmdlet, {"Confirm": False, **parameters})
