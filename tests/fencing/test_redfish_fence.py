"""Cutting power from a management controller that speaks Redfish, over HTTPS."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

import pytest
from machines import FAST, P1, PASSWORD, SHORT, Machine, password_file, self_signed

from failover_orch.errors import FenceFailed, FenceRefused
from failover_orch.fencing import FenceAgent, Login, PowerReading, RedfishFence, fence_agent, redfish
from failover_orch.lab import BmcFault, RedfishBmc


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def bmc(machine: Machine, tmp_path: Path) -> Iterator[RedfishBmc]:
    certificate, key = self_signed(tmp_path)
    with RedfishBmc(
        machine.powered, machine.power_off, password=PASSWORD, certificate=certificate, key=key, system="437XR"
    ) as bmc:
        yield bmc


@pytest.fixture
def settings(bmc: RedfishBmc, tmp_path: Path) -> RedfishFence:
    return RedfishFence(
        "primary", "p1", bmc.url, "admin", password_file(tmp_path), ca_file=tmp_path / "bmc.crt", pace=FAST
    )


@pytest.fixture
def agent(settings: RedfishFence) -> FenceAgent:
    return fence_agent(settings)


@pytest.mark.parametrize("login", list(Login))
async def test_power_is_read_and_cut_and_read_again(
    login: Login, settings: RedfishFence, bmc: RedfishBmc, machine: Machine
) -> None:
    agent = fence_agent(replace(settings, login=login))
    assert await agent.power(P1) is PowerReading.ON
    machine.takes_s = 0.3
    assert (await agent.cut(P1)).startswith(f"power of primary/p1 read OFF from BMC 127.0.0.1:{bmc.port} at 20")
    assert (machine.powered(), await agent.power(P1)) == (False, PowerReading.OFF)
    assert bmc.commands >= 1
    assert bmc.sessions == set(), "a session that nobody ends blocks the controller"


async def test_what_is_off_is_left_as_it_is(agent: FenceAgent, bmc: RedfishBmc, machine: Machine) -> None:
    machine.power_off()
    assert "read OFF" in await agent.cut(P1)
    assert bmc.commands == 0


async def test_an_answer_that_is_lost_is_no_failure(agent: FenceAgent, bmc: RedfishBmc, machine: Machine) -> None:
    bmc.fault = BmcFault.LOSES_ANSWERS
    assert "read OFF" in await agent.cut(P1)
    assert not machine.powered()


async def test_power_that_stays_on(settings: RedfishFence, bmc: RedfishBmc) -> None:
    bmc.fault = BmcFault.STAYS_ON
    with pytest.raises(FenceFailed, match=r"^power of primary/p1 stays ON, read from BMC .* times told") as raised:
        await fence_agent(replace(settings, pace=SHORT)).cut(P1)
    assert raised.value.seen_on
    assert bmc.commands > 1
    assert bmc.sessions == set()


async def test_a_controller_that_falls_silent(settings: RedfishFence, bmc: RedfishBmc) -> None:
    bmc.fault = BmcFault.DEAF
    agent = fence_agent(replace(settings, pace=SHORT))
    with pytest.raises(
        FenceFailed, match=r"not read as OFF within 1\.5 s: BMC .* does not answer: Server disconnected"
    ):
        await agent.cut(P1)
    assert await agent.power(P1) is PowerReading.UNKNOWN


async def test_nobody_listens(settings: RedfishFence) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    silent = replace(settings, url=f"https://127.0.0.1:{port}", pace=SHORT)
    with pytest.raises(FenceFailed, match=f"BMC 127.0.0.1:{port} does not answer: All connection attempts failed"):
        await fence_agent(silent).cut(P1)


async def test_a_session_that_the_controller_ends_is_opened_again(
    settings: RedfishFence, bmc: RedfishBmc, machine: Machine
) -> None:
    power_off = machine.power_off

    def and_forget() -> None:
        bmc.sessions.clear()
        power_off()

    bmc._power_off = and_forget
    assert "read OFF" in await fence_agent(settings).cut(P1)
    assert not machine.powered()


@pytest.mark.parametrize("login", list(Login))
async def test_a_wrong_password_is_refused_at_once(
    login: Login, settings: RedfishFence, bmc: RedfishBmc, tmp_path: Path
) -> None:
    agent = fence_agent(replace(settings, password_file=password_file(tmp_path, "wrong"), login=login))
    sentence = rf"^BMC 127\.0\.0\.1:{bmc.port} refuses admin \(401 to .*\): see the user's rights and {tmp_path}"
    for question in (agent.cut, agent.power):
        with pytest.raises(FenceRefused, match=sentence):
            await question(P1)


async def test_a_certificate_of_somebody_else_is_refused(settings: RedfishFence, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other, _ = self_signed(tmp_path / "other")
    for ca_file in (other, None):
        with pytest.raises(FenceRefused, match=r"^the certificate of BMC .* is not trusted: .*self.signed"):
            await fence_agent(replace(settings, ca_file=ca_file)).cut(P1)


@pytest.mark.parametrize(
    ("lines", "body", "sentence"),
    [
        (b"", b"x" * 3_000_000, r"gives more than 1048576 bytes to GET /redfish/v1/Systems"),
        (b"", None, r"did not answer GET /redfish/v1/Systems within 8 s"),
        (b"content-encoding: gzip\r\n", gzip.compress(bytes(100_000_000)), r"answered GET .* that is no JSON object"),
        (b"location: http://127.0.0.1:1/elsewhere\r\n", b"", r"answered 302 to GET /redfish/v1/Systems"),
    ],
)
async def test_an_answer_without_end_or_that_leads_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: bytes, body: bytes | None, sentence: str
) -> None:
    if body is None:
        monkeypatch.setattr(redfish, "_CALL_S", 0.3)
        sentence = sentence.replace("8 s", "0.3 s")
    certificate, key = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    enough = threading.Event()

    class Controller(StreamRequestHandler):
        timeout = 5.0

        def handle(self) -> None:
            with suppress(OSError):
                while self.rfile.readline() not in (b"\r\n", b""):
                    continue
                status = b"302 Found" if b"location" in lines else b"200 OK"
                self.wfile.write(b"HTTP/1.1 %s\r\n%sconnection: close\r\n\r\n" % (status, lines))
                while body is None and not enough.wait(0.05):
                    self.wfile.write(b" ")
                self.wfile.write(body or b"")

    with ThreadingTCPServer(("127.0.0.1", 0), Controller) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        url, password = f"https://127.0.0.1:{server.server_address[1]}", password_file(tmp_path)
        fence = RedfishFence("primary", "p1", url, "admin", password, ca_file=certificate, login=Login.BASIC)
        switch = redfish.RedfishSwitch(fence)
        try:
            with pytest.raises(FenceFailed, match=sentence):
                await switch.read(P1)
        finally:
            await switch.let_go()
            enough.set()
            server.shutdown()
            serving.join()


async def test_a_file_of_certificates_that_is_none(settings: RedfishFence, tmp_path: Path) -> None:
    (tmp_path / "empty.crt").touch()
    with pytest.raises(FenceRefused, match=r"^the certificates in .*empty\.crt cannot be read"):
        await fence_agent(replace(settings, ca_file=tmp_path / "empty.crt")).cut(P1)


async def test_the_system_is_looked_for_by_its_id(settings: RedfishFence) -> None:
    assert await fence_agent(replace(settings, system="437XR")).power(P1) is PowerReading.ON
    with pytest.raises(FenceRefused, match="has no system '2'; there are: 437XR"):
        await fence_agent(replace(settings, system="2")).cut(P1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"Actions": {}}, "offers no #ComputerSystem.Reset for primary/p1"),
        ({"Actions": {"#ComputerSystem.Reset": {"target": "https://elsewhere.example/x"}}}, "offers no #Computer"),
        (
            {
                "Actions": {
                    "#ComputerSystem.Reset": {
                        "target": "/x",
                        "ResetType@Redfish.AllowableValues": ["On", "GracefulShutdown"],
                    }
                }
            },
            r"offers no ForceOff for primary/p1, only \['On', 'GracefulShutdown'\]",
        ),
    ],
)
async def test_a_controller_that_cannot_force_it(
    change: dict[str, object], sentence: str, agent: FenceAgent, bmc: RedfishBmc, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = bmc.answer

    def changed(*arguments: object) -> object:
        said = answer(*arguments)  # type: ignore[arg-type]
        return (said[0], {**said[1], **change}, said[2]) if said and said[1] and "PowerState" in said[1] else said

    monkeypatch.setattr(bmc, "answer", changed)
    with pytest.raises(FenceRefused, match=sentence):
        await agent.cut(P1)


@pytest.mark.parametrize(
    ("state", "reading"),
    [
        ("PoweringOff", PowerReading.ON),
        ("Paused", PowerReading.ON),
        ("PoweringOn", PowerReading.ON),
        (None, PowerReading.UNKNOWN),
    ],
)
async def test_only_off_is_off(
    state: str | None, reading: PowerReading, agent: FenceAgent, bmc: RedfishBmc, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = bmc.answer

    def changed(*arguments: object) -> object:
        said = answer(*arguments)  # type: ignore[arg-type]
        return (200, {**said[1], "PowerState": state}, {}) if said and said[1] and "PowerState" in said[1] else said

    monkeypatch.setattr(bmc, "answer", changed)
    assert await agent.power(P1) is reading
