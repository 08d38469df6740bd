"""Cutting power with `ipmitool`, from a management controller that speaks IPMI 2.0 over LAN."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from machines import FAST, P1, PASSWORD, SHORT, Machine, fake_tool, password_file

from failover_orch.errors import FenceFailed, FenceRefused, LabError
from failover_orch.fencing import FenceAgent, Fences, IpmiFence, PowerReading, fence_agent
from failover_orch.lab import BmcFault, IpmiBmc


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def bmc(machine: Machine) -> Iterator[IpmiBmc]:
    with IpmiBmc(machine.powered, machine.power_off, password=PASSWORD) as bmc:
        yield bmc


@pytest.fixture
def settings(bmc: IpmiBmc, tmp_path: Path) -> IpmiFence:
    return IpmiFence("primary", "p1", bmc.host, "admin", password_file(tmp_path), port=bmc.port, pace=FAST)


@pytest.fixture
def agent(settings: IpmiFence) -> FenceAgent:
    return fence_agent(settings)


async def test_power_is_read_and_cut_and_read_again(agent: FenceAgent, bmc: IpmiBmc, machine: Machine) -> None:
    assert await agent.power(P1) is PowerReading.ON
    proof = await agent.cut(P1)
    assert re.fullmatch(r"power of primary/p1 read OFF from BMC 127\.0\.0\.1 at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", proof)
    assert (machine.powered(), await agent.power(P1), bmc.commands) == (False, PowerReading.OFF, 1)


async def test_what_is_off_is_left_as_it_is(agent: FenceAgent, bmc: IpmiBmc, machine: Machine) -> None:
    machine.power_off()
    assert "read OFF" in await agent.cut(P1)
    assert bmc.commands == 0


async def test_a_cut_ends_only_once_the_power_is_read_as_off(agent: FenceAgent, machine: Machine) -> None:
    machine.takes_s = 1.0
    await agent.cut(P1)
    assert not machine.powered()


async def test_for_several_vms_of_a_node_it_is_told_once(agent: FenceAgent, bmc: IpmiBmc) -> None:
    proofs = await asyncio.gather(*(agent.cut(replace(P1, vm=f"vm-{number}")) for number in range(4)))
    assert {proof.partition(" from ")[0] for proof in proofs} == {"power of primary/p1 read OFF"}
    assert bmc.commands == 1


async def test_an_answer_that_is_lost_is_no_failure(agent: FenceAgent, bmc: IpmiBmc, machine: Machine) -> None:
    bmc.fault = BmcFault.LOSES_ANSWERS
    assert "read OFF" in await agent.cut(P1)
    assert not machine.powered()


async def test_power_that_stays_on(settings: IpmiFence, bmc: IpmiBmc) -> None:
    bmc.fault = BmcFault.STAYS_ON
    with pytest.raises(
        FenceFailed, match=r"^power of primary/p1 stays ON, read from BMC 127\.0\.0\.1 within 1\.5 s"
    ) as raised:
        await fence_agent(replace(settings, pace=SHORT)).cut(P1)
    assert raised.value.seen_on
    assert bmc.commands > 1, "a controller may have lost the command, and is told again"


async def test_a_controller_that_falls_silent(settings: IpmiFence, bmc: IpmiBmc) -> None:
    bmc.fault = BmcFault.DEAF
    agent = fence_agent(replace(settings, pace=SHORT))
    with pytest.raises(FenceFailed, match=r"^power of primary/p1 was not read as OFF within 1\.5 s: ") as raised:
        await agent.cut(P1)
    assert not raised.value.seen_on
    assert await agent.power(P1) is PowerReading.UNKNOWN


async def test_a_controller_that_comes_back_in_time(agent: FenceAgent, bmc: IpmiBmc) -> None:
    bmc.fault = BmcFault.DEAF
    cut = asyncio.create_task(agent.cut(P1))
    done, _ = await asyncio.wait([cut], timeout=0.5)
    assert not done
    bmc.fault = BmcFault.NONE
    assert "read OFF" in await cut


async def test_nobody_listens(settings: IpmiFence) -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pace = replace(FAST, deadline_s=5)
    with pytest.raises(FenceFailed, match=f"within 5 s: BMC 127.0.0.1 does not answer at UDP port {port}$"):
        await fence_agent(replace(settings, port=port, pace=pace)).cut(P1)


async def test_a_wrong_password_is_refused_at_once(settings: IpmiFence, bmc: IpmiBmc, tmp_path: Path) -> None:
    wrong = replace(settings, password_file=password_file(tmp_path, "wrong"))
    sentence = f"^BMC 127.0.0.1 does not have this password for admin: see {wrong.password_file}$"
    for question in (fence_agent(wrong).cut, fence_agent(wrong).power):
        with pytest.raises(FenceRefused, match=sentence):
            await question(P1)
    assert bmc.commands == 0


@pytest.mark.parametrize(
    ("said", "error", "sentence"),
    [
        ("RAKP 2 message indicates an error : unauthorized name", FenceRefused, "does not know the user admin"),
        ("Error: no response from RAKP 1 message", FenceFailed, "falls silent when admin logs in: does it know that"),
        ("Set Session Privilege Level to OPERATOR failed: Unknown (0x81)", FenceRefused, "does not let admin be OPERA"),
        ("RAKP 2 message indicates an error : insufficient resources for session", FenceFailed, "has no session to"),
        ("Address lookup for bmc failed", FenceFailed, "has a name that cannot be resolved"),
        ("Set Chassis Power Control to Down/Off failed: Node busy", FenceFailed, "gives no answer that helps: Set Cha"),
    ],
)
async def test_what_ipmitool_says_is_told_in_one_sentence(
    said: str,
    error: type[Exception],
    sentence: str,
    settings: IpmiFence,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_tool(
        tmp_path, "ipmitool", f"echo 'Loading IANA PEN Registry...' >&2; echo '> {said}' >&2; exit 1", monkeypatch
    )
    with pytest.raises(error, match=re.escape(f"BMC 127.0.0.1 {sentence}")):
        await fence_agent(replace(settings, pace=SHORT)).cut(P1)


@pytest.mark.parametrize(
    ("password", "mode", "sentence"),
    [
        ("x" * 21, 0o600, "is longer than IPMI's 20 bytes"),
        ("secret", 0o604, "has the mode 0604, open to everybody: chmod 600"),
        ("", 0o600, "is empty; expected one secret"),
    ],
)
async def test_a_password_that_cannot_be_used(
    password: str, mode: int, sentence: str, settings: IpmiFence, tmp_path: Path
) -> None:
    file = password_file(tmp_path, password)
    file.chmod(mode)
    with pytest.raises(FenceRefused, match=sentence):
        await fence_agent(replace(settings, password_file=file)).cut(P1)


async def test_the_password_is_on_no_command_line(
    settings: IpmiFence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f'echo "$@" >> {tmp_path}/said; env >> {tmp_path}/said; echo "Chassis Power is off"'
    fake_tool(tmp_path, "ipmitool", script, monkeypatch)
    await fence_agent(settings).cut(P1)
    said = (tmp_path / "said").read_text()
    assert (
        f"-I lanplus -L OPERATOR -N 2 -R 1 -H 127.0.0.1 -p {settings.port} -U admin -f {settings.password_file}" in said
    )
    assert PASSWORD not in said.replace("bmc.secret", "")


async def test_without_ipmitool(agent: FenceAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FenceRefused, match=r"ipmitool cannot be run here .*apt install ipmitool"):
        await agent.cut(P1)


async def test_a_tool_that_hangs_is_killed(
    settings: IpmiFence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tool(tmp_path, "ipmitool", f"echo $$ > {tmp_path}/pid; exec sleep 600", monkeypatch)
    with pytest.raises(FenceFailed, match=r"BMC 127\.0\.0\.1 did not answer in time$"):
        await fence_agent(replace(settings, pace=SHORT)).cut(P1)
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_the_table_cuts_by_the_names_of_the_nodes(settings: IpmiFence, machine: Machine) -> None:
    fences = Fences.of([settings])
    assert fences.fences == ("primary/p1",)
    assert await fences.power(P1) is PowerReading.ON
    assert "power of primary/p1 read OFF" in await fences.cut(replace(P1, vm="erp-db"))
    assert not machine.powered()


def test_a_stand_in_that_cannot_listen_says_so() -> None:
    bmc = IpmiBmc(bool, lambda: None, address="192.0.2.1")
    with pytest.raises(LabError, match=r"^no BMC at 192\.0\.2\.1:0 \("):
        bmc.start()
