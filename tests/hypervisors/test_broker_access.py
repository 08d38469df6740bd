"""A site agent asks the broker's API for the place of a replica: with a token, with a certificate, and in vain."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest

from certificates_for_tests import Authority
from failover_orch.errors import StepFailed
from failover_orch.hypervisors.libvirt import BrokerAccess
from failover_orch.hypervisors.libvirt.placing import ask_for_node

PLACE = orjson.dumps({"placement": {"node": "d1"}})


class Broker:
    """Answers everything alike; `asked` are the paths, credentials and certificates that came."""

    def __init__(self) -> None:
        self.status, self.body = 200, PLACE
        self.asked: list[tuple[str, str, Any]] = []
        self.url = ""


@contextmanager
def answering(context: ssl.SSLContext | None = None) -> Iterator[Broker]:
    broker = Broker()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            connection: Any = self.connection
            certificate = connection.getpeercert() if context is not None else None
            broker.asked.append((self.path, self.headers.get("Authorization", ""), certificate))
            self.send_response(broker.status)
            self.send_header("Content-Length", str(len(broker.body)))
            self.end_headers()
            self.wfile.write(broker.body)

        def log_message(self, *_: Any) -> None:
            """Nothing: the tests have logs of their own."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    broker.url = f"http{'s' if context is not None else ''}://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield broker
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_the_token_goes_along() -> None:
    with answering() as broker:
        assert await ask_for_node(broker.url, BrokerAccess("fo_a_b"), "erp/db 1", "dr") == "d1"
    assert broker.asked == [("/v1/vms/erp%2Fdb%201/placement", "Bearer fo_a_b", None)]


async def test_the_certificate_goes_along_and_the_brokers_own_is_verified(tmp_path: Path) -> None:
    ours, clients = Authority(tmp_path, "ours"), Authority(tmp_path, "clients")
    server = ours.signed("server")
    agent = clients.signed("agent", dns=["agent.dr.example"], client=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=clients.path)
    context.load_cert_chain(server.certificate, server.key)
    context.verify_mode = ssl.CERT_REQUIRED
    with answering(context) as broker:
        access = BrokerAccess(ca=ours.path, certificate=agent.certificate, key=agent.key)
        assert await ask_for_node(broker.url, access, "v1", "dr") == "d1"
        ((_, _, certificate),) = broker.asked
        assert ("DNS", "agent.dr.example") in certificate["subjectAltName"]
        with pytest.raises(StepFailed, match="the broker cannot be asked"):
            await ask_for_node(broker.url, BrokerAccess(ca=clients.path), "v1", "dr")


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"{}", "does not let us ask .* 401.*: give hypervisor.broker_access a token"),
        (403, b"{}", "does not let us ask .* 403"),
        (503, b"{}", "cannot be asked"),
        (200, b"no JSON", "cannot be asked"),
        (200, b"[]", "cannot be asked"),
        (200, orjson.dumps({"placement": {"node": None}}), "has no place for v1 at dr"),
    ],
)
async def test_why_there_is_no_place_is_said_without_the_token(status: int, body: bytes, said: str) -> None:
    with answering() as broker:
        broker.status, broker.body = status, body
        with pytest.raises(StepFailed, match=said) as told:
            await ask_for_node(broker.url, BrokerAccess("fo_a_secret"), "v1", "dr")
    assert "fo_a_secret" not in str(told.value)
    assert "fo_a_secret" not in repr(BrokerAccess("fo_a_secret"))
