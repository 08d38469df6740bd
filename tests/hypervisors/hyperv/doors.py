"""How a node is reached: HTTP listeners that authenticate, decrypt, and can be cut off.

Over HTTPS a caller shows its password (Basic); over HTTP it proves it (Negotiate, here always NTLM) and every message
is encrypted with what that agreed on, as Windows requires by default.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

import spnego
from pypsrp.encryption import WinRMEncryption
from pypsrp.exceptions import WinRMError

__all__ = ["AccessDenied", "Answer", "ConnectionCut", "Door", "Listener"]

_SOAP = "application/soap+xml;charset=UTF-8"
_ENCRYPTED = f'multipart/encrypted;protocol="{WinRMEncryption.SPNEGO}";boundary="Encrypted Boundary"'
_BOUNDARY = "Encrypted Boundary"
_OK, _UNAUTHORIZED, _SERVER_ERROR = 200, 401, 500


class AccessDenied(Exception):
    """The request is answered with 401."""


class ConnectionCut(Exception):
    """The connection ends in the middle of the answer."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("cut")
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Answer:
    """A SOAP envelope to send, and whether it holds a fault."""

    envelope: bytes
    fault: bool = False


@dataclass(frozen=True, slots=True)
class Door:
    """An address at which a node can be reached, by whoever stands in that site, and how to show who one is."""

    node: str
    seen_from: str
    host: str
    port: int
    ssl: bool
    auth: str
    """`basic` or `negotiate`."""


class Listener:
    """One door of a node: takes requests, one thread for each connection, while `reachable`.

    A door that cannot be reached accepts and hangs up, so that nobody else can take its port meanwhile.
    """

    def __init__(
        self,
        answer: Callable[[bytes], Answer],
        reachable: Callable[[], bool],
        credentials: Callable[[], tuple[str, str]],
        tls: ssl.SSLContext | None,
    ) -> None:
        self.answer = answer
        self.reachable = reachable
        self.credentials = credentials
        self.tls = tls
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, name=f"door-{self.port}", daemon=True)
        self._acceptor.start()

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    def hang_up(self) -> None:
        """End every connection, whatever it is doing."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            _reset(connection)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._socket.close()
        self.hang_up()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._socket.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._connections.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection, address), daemon=True)
            self._threads = [other for other in self._threads if other.is_alive()] + [thread]
            thread.start()

    def _serve(self, connection: socket.socket, address: Any) -> None:
        secured: socket.socket = connection
        try:
            if not self.reachable():
                _reset(connection)
                return
            if self.tls is not None:
                secured = self.tls.wrap_socket(connection, server_side=True)
                with self._lock:
                    self._connections.discard(connection)
                    self._connections.add(secured)
            _Conversation(secured, address, self)  # type: ignore[arg-type]  # it asks nothing of a server
        except OSError:
            pass  # whoever called has gone, or was cut off
        finally:
            with self._lock:
                self._connections -= {connection, secured}
            secured.close()
            connection.close()


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Of the plain socket: an SSL socket would forget its session under the thread that still reads from it.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


class _Conversation(BaseHTTPRequestHandler):
    """The requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = False
    server: Any
    """The listener."""

    def setup(self) -> None:
        super().setup()
        self._context: Any = None
        self._encryption: WinRMEncryption | None = None

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's name)
        """Say nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        listener: Listener = self.server
        if not listener.reachable():
            self._hang_up()
            return
        try:
            message = self._by_password(body) if listener.tls is not None else self._by_proof(body)
            if message is None:
                return
            answer = listener.answer(message)
        except AccessDenied:
            self._refuse("")
        except ConnectionCut as cut:
            self._send(_OK, *self._wrapped(cut.answer), cut=True)
        else:
            self._send(_SERVER_ERROR if answer.fault else _OK, *self._wrapped(answer.envelope))

    def _by_password(self, body: bytes) -> bytes:
        user, password = self.server.credentials()
        expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        if not hmac.compare_digest(self.headers.get("Authorization", ""), expected):
            raise AccessDenied
        return body

    def _by_proof(self, body: bytes) -> bytes | None:
        """The decrypted message; None while it is still being agreed who calls, which has then been answered."""
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "negotiate":
            self._negotiate(base64.b64decode(token), body)
            return None
        if self._encryption is None:
            raise AccessDenied
        match = re.search('boundary="([^"]+)"', self.headers.get("Content-Type", ""))
        if match is None:
            raise AccessDenied  # Windows does not read what is not encrypted
        try:
            message: bytes = self._encryption.unwrap_message(body, match.group(1))
        except (WinRMError, spnego.exceptions.SpnegoError):
            raise AccessDenied from None
        return message

    def _negotiate(self, token: bytes, body: bytes) -> None:
        if self._context is None or self._context.complete:
            self._encryption = None
            # The library's own Negotiate, with NTLM inside: none of the system's is asked for.
            self._context = spnego.server(protocol="negotiate", options=spnego.NegotiateOptions.use_negotiate)
        try:
            reply = self._context.step(token)
        except spnego.exceptions.SpnegoError:
            self._context = None
            self._refuse("")
            return
        header = base64.b64encode(reply or b"").decode()
        if not self._context.complete:
            self._refuse(header)
            return
        if body:
            raise AccessDenied  # what comes with the proof cannot be encrypted with what comes of it
        self._encryption = WinRMEncryption(self._context, WinRMEncryption.SPNEGO)
        self._send(_OK, b"", _SOAP, authenticate=f"Negotiate {header}")

    def _refuse(self, token: str) -> None:
        scheme = 'Basic realm="WSMAN"' if self.server.tls is not None else f"Negotiate {token}".strip()
        self._send(_UNAUTHORIZED, b"", _SOAP, authenticate=scheme)

    def _wrapped(self, envelope: bytes) -> tuple[bytes, str]:
        if self._encryption is None:
            return envelope, _SOAP
        _, encrypted = self._encryption.wrap_message(envelope)
        return encrypted, _ENCRYPTED

    def _send(self, status: int, body: bytes, kind: str, *, authenticate: str = "", cut: bool = False) -> None:
        lines = [
            f"HTTP/1.1 {status} {self.responses[status][0]}",
            "Server: Microsoft-HTTPAPI/2.0",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
        ]
        if authenticate:
            lines.append(f"WWW-Authenticate: {authenticate}")
        # One write: with headers and body in two segments, delayed acknowledgements cost 40 ms for each answer.
        message = "\r\n".join([*lines, "", ""]).encode() + body
        self.wfile.write(message[: len(message) - len(body) // 2] if cut else message)
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        _reset(self.connection)
