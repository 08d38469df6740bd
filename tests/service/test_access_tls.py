"""TLS of the service: client certificates reach the gate, others are refused, renewed files are taken up."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import uvicorn
import uvloop

from certificates_for_tests import Authority, Pair
from failover_orch.domain import AccessRole, Grant
from failover_orch.errors import ConfigError, Unauthenticated
from failover_orch.service.access import (
    AttemptLimit,
    Attempts,
    CertificateProtocol,
    Certificates,
    Gate,
    Refusals,
    TlsFiles,
    TokenBook,
    credentials_of,
    server_context,
)
from failover_orch.service.access import tls as tls_module

AGENT = Grant(AccessRole.SITE_AGENT, ("dr",))
NAME = "agent.dr.example"


class Yard:
    """An authority for the server, one for clients, and the server's files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ours = Authority(directory, "ours")
        self.clients = Authority(directory, "clients")
        self.server = self.ours.signed("server")
        self.files = TlsFiles(self.server.certificate, self.server.key, self.clients.path)


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


async def never(*_: object) -> None:
    raise AssertionError("nothing is told here")


async def whoami(scope: Any, receive: Any, send: Any) -> None:
    """Who calls, as the gate has it."""
    gate = Gate(
        TokenBook(),
        Refusals(never),
        Attempts(AttemptLimit()),
        certificates=Certificates({NAME: (AGENT,)}),
    )
    try:
        said = (await gate.caller(credentials_of(scope))).name
    except Unauthenticated as error:
        said = str(error)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": orjson.dumps(said)})


@contextmanager
def serving(
    files: TlsFiles, loop_factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
) -> Iterator[str]:
    """`whoami` over TLS, in a thread with an event loop of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        context = server_context(files)
        config = uvicorn.Config(
            whoami,
            http=CertificateProtocol,
            ssl_context_factory=lambda *_: context,
            lifespan="off",
            log_config=None,
        )
        server = uvicorn.Server(config)

        def run() -> None:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(server.serve(sockets=[listener]))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def client(authority: Authority, pair: Pair | None = None) -> httpx.Client:
    context = ssl.create_default_context(cafile=authority.path)
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return httpx.Client(verify=context)


def ask(url: str, authority: Authority, pair: Pair | None = None) -> Any:
    with client(authority, pair) as caller:
        return caller.get(url).json()


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_client_certificate_says_who_calls(yard: Yard, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    listed = yard.clients.signed("agent", dns=[NAME], client=True)
    with serving(yard.files, loop_factory) as url, client(yard.ours, listed) as caller:
        # Also on the second call of a connection.
        assert [caller.get(url).json() for _ in range(2)] == [NAME, NAME]


def test_without_a_certificate_one_gets_in_and_is_nobody(yard: Yard) -> None:
    unlisted = yard.clients.signed("other", dns=["other.dr.example"], client=True)
    with serving(yard.files) as url:
        assert ask(url, yard.ours).startswith("this needs an identity")
        assert ask(url, yard.ours, unlisted).startswith("these credentials are not accepted")


def of_another_authority(yard: Yard) -> Pair:
    return Authority(yard.directory, "theirs").signed("theirs-agent", dns=[NAME], client=True)


def that_has_expired(yard: Yard) -> Pair:
    return yard.clients.signed("old-agent", dns=[NAME], client=True, days=-1)


def of_the_servers_own_authority(yard: Yard) -> Pair:
    return yard.ours.signed("ours-agent", dns=[NAME], client=True)


def made_for_servers(yard: Yard) -> Pair:
    return yard.clients.signed("server-agent", dns=[NAME])


@pytest.mark.parametrize(
    "make", [of_another_authority, that_has_expired, of_the_servers_own_authority, made_for_servers]
)
def test_tls_refuses_a_certificate(yard: Yard, make: Callable[[Yard], Pair]) -> None:
    pair = make(yard)
    with serving(yard.files) as url, pytest.raises(httpx.TransportError):
        ask(url, yard.ours, pair)


def test_a_client_without_tls_gets_nothing(yard: Yard) -> None:
    with serving(yard.files) as url, pytest.raises(httpx.TransportError):
        httpx.get(url.replace("https", "http"))


def test_old_versions_of_tls_are_refused(yard: Yard) -> None:
    context = ssl.create_default_context(cafile=yard.ours.path)
    with pytest.warns(DeprecationWarning, match="TLSVersion"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with serving(yard.files) as url, httpx.Client(verify=context) as caller, pytest.raises(httpx.TransportError):
        caller.get(url)


def serial_number(url: str, authority: Authority) -> str:
    host, _, port = url.removeprefix("https://").partition(":")
    context = ssl.create_default_context(cafile=authority.path)
    with (
        closing(socket.create_connection((host, int(port)))) as plain,
        context.wrap_socket(plain, server_hostname=host) as wrapped,
    ):
        certificate = wrapped.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"])


@pytest.fixture
def looking_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_module, "_LOOK_EVERY_S", 0.0)


@pytest.mark.usefixtures("looking_each_time")
def test_a_renewed_certificate_is_taken_up_and_a_broken_one_is_not(yard: Yard) -> None:
    with serving(yard.files) as url:
        first = serial_number(url, yard.ours)
        assert serial_number(url, yard.ours) == first
        yard.ours.signed("server")
        renewed = serial_number(url, yard.ours)
        assert renewed != first
        yard.server.certificate.write_text("no certificate")
        assert serial_number(url, yard.ours) == renewed
        yard.server.certificate.unlink()
        assert serial_number(url, yard.ours) == renewed


@pytest.mark.usefixtures("looking_each_time")
def test_another_client_authority_is_taken_up(yard: Yard) -> None:
    before = yard.clients.signed("agent", dns=[NAME], client=True)
    with serving(yard.files) as url:
        assert ask(url, yard.ours, before) == NAME
        later = Authority(yard.directory, "later")
        later.path.replace(yard.clients.path)
        assert ask(url, yard.ours, later.signed("later-agent", dns=[NAME], client=True)) == NAME
        with pytest.raises(httpx.TransportError):
            ask(url, yard.ours, before)


def test_a_certificate_that_ends_while_its_connection_lasts_ends(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = yard.clients.signed("agent", dns=[NAME], client=True)
    with serving(yard.files) as url, client(yard.ours, listed) as caller:
        assert caller.get(url).json() == NAME
        in_two_days = int((time.time() + 2 * 86_400) * 1000)
        monkeypatch.setattr("failover_orch.service.access.gate.now_ms", lambda: in_two_days)
        assert caller.get(url).json().startswith("these credentials are not accepted")


def without_a_certificate(yard: Yard) -> TlsFiles:
    return TlsFiles(yard.directory / "none.crt", yard.server.key)


def with_anothers_key(yard: Yard) -> TlsFiles:
    return TlsFiles(yard.server.certificate, yard.ours.signed("another").key)


def with_a_key_for_an_authority(yard: Yard) -> TlsFiles:
    return TlsFiles(yard.server.certificate, yard.server.key, yard.server.key)


@pytest.mark.parametrize("make", [without_a_certificate, with_anothers_key, with_a_key_for_an_authority])
def test_files_that_cannot_be_used_are_said_in_one_sentence(yard: Yard, make: Callable[[Yard], TlsFiles]) -> None:
    with pytest.raises(ConfigError, match="cannot be used: "):
        server_context(make(yard))
