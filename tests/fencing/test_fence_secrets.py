"""What fences write down at DEBUG holds neither passwords nor what opens a controller's session."""

from __future__ import annotations

import base64
import logging
import logging.config
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from machines import P1, SHORT, Machine, password_file, self_signed

from failover_orch import telemetry
from failover_orch.errors import FenceFailed, FenceRefused
from failover_orch.fencing import FenceSettings, IpmiFence, Login, RedfishFence, fence_agent
from failover_orch.lab import IpmiBmc, RedfishBmc

PASSWORD, ANOTHER = "marked-4f1d9e7c", "marked-77aa01c3"
LOGGERS = ("aiokafka", "faust", "mode", "aiokafka.conn", "httpcore", "pypsrp", "spnego")


@contextmanager
def at_debug() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logging.config.dictConfig(telemetry.logging_config("DEBUG"))
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET)


async def tried(settings: FenceSettings) -> None:
    with suppress(FenceFailed, FenceRefused):
        await fence_agent(settings).cut(P1)


async def test_at_debug_no_password_and_no_session_is_written_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with at_debug():
        await fence_everything(tmp_path)
    said = capsys.readouterr().err
    assert '"logger":"httpx"' in said  # written down it was, but not whole
    for secret in (PASSWORD, ANOTHER, base64.b64encode(f"admin:{PASSWORD}".encode()).decode()):
        assert secret not in said
    assert "x-auth-token" not in said.lower()


async def fence_everything(tmp_path: Path) -> None:
    """With every login, the right password and a wrong one, and where nobody listens."""
    certificate, key = self_signed(tmp_path)
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    machine = Machine()
    with RedfishBmc(
        machine.powered, machine.power_off, password=PASSWORD, certificate=certificate, key=key, system="437XR"
    ) as bmc:
        redfish = RedfishFence(
            "primary", "p1", bmc.url, "admin", password_file(tmp_path, PASSWORD), ca_file=certificate, pace=SHORT
        )
        for login in Login:
            await tried(replace(redfish, login=login))
            await tried(replace(redfish, login=login, password_file=password_file(wrong, ANOTHER)))
            await tried(replace(redfish, login=login, url="https://127.0.0.1:9"))
    with IpmiBmc(machine.powered, machine.power_off, password=PASSWORD) as bmc:
        ipmi = IpmiFence(
            "primary", "p1", "127.0.0.1", "admin", password_file(tmp_path, PASSWORD), port=bmc.port, pace=SHORT
        )
        await tried(ipmi)
        await tried(replace(ipmi, password_file=password_file(wrong, ANOTHER)))
