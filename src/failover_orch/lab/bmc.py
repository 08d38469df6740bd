"""Management controllers for machines that have none: IPMI 2.0 over LAN, and Redfish.

What they are asked to do is done by callbacks, so that the machine may be a node of a `Lab`:

    with IpmiBmc(lambda: lab.powered("p1"), lambda: lab.power_off("p1"), address=lab.root_address) as bmc: ...
"""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from failover_orch.errors import LabError

__all__ = ["BmcFault", "IpmiBmc", "RedfishBmc"]

_STOP_S = 10.0


class BmcFault(Enum):
    """What is wrong with a controller."""

    NONE = auto()
    STAYS_ON = auto()
    """It accepts the command to turn off, and nothing happens."""
    LOSES_ANSWERS = auto()
    """It turns off, but its answer to the command does not arrive."""
    DEAF = auto()
    """It answers nothing any more."""


class _Bmc:
    """What both kinds have in common: the machine's power, and faults. `fault` may be set at any time."""

    def __init__(self, powered: Callable[[], bool], power_off: Callable[[], None]) -> None:
        self.fault = BmcFault.NONE
        self.commands = 0
        """How often it was told to turn off."""
        self._powered = powered
        self._power_off = power_off
        self._working: list[threading.Thread] = []

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        """Wait for what is being turned off."""
        for thread in self._working:
            thread.join(_STOP_S)
        self._working.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _power(self) -> bool | None:
        """Whether the machine is on; None: say nothing."""
        return None if self.fault is BmcFault.DEAF else self._powered()

    def _off(self) -> bool:
        """Turn it off, as a controller does: at once answered, and done a moment later. False: say nothing."""
        if self.fault is BmcFault.DEAF:
            return False
        self.commands += 1
        if self.fault is not BmcFault.STAYS_ON:
            thread = threading.Thread(target=self._power_off)
            self._working.append(thread)
            thread.start()
        return self.fault is not BmcFault.LOSES_ANSWERS


class IpmiBmc(_Bmc):
    """A controller that speaks IPMI 2.0 over LAN (RMCP+, cipher suite 3), in a process of its own."""

    def __init__(
        self,
        powered: Callable[[], bool],
        power_off: Callable[[], None],
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        user: str = "admin",
        password: str = "secret",  # noqa: S107 - of a machine that is none
        run: Sequence[str] = (),
    ) -> None:
        """`powered` and `power_off` are called in threads. `port` 0: a free one, `run`: a prefix as `Lab.run_in`."""
        super().__init__(powered, power_off)
        self.host = address
        self.port = port
        program = Path(__file__).with_name("ipmi_bmc.py")
        self._command = [*run, sys.executable, "-P", str(program), address, str(port), user, password]
        self._process: subprocess.Popen[str] | None = None
        self._answering: threading.Thread | None = None

    def start(self) -> None:
        """Return when it answers.

        Raises:
            LabError: it cannot listen there, or pyghmi is not installed.

        """
        process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._process = process
        said = process.stdout.readline() if process.stdout else ""
        if not said.strip().isdecimal():
            _, errors = process.communicate()
            self._process = None
            reason = errors.strip().splitlines()[-1:] or ["it said nothing"]
            raise LabError(f"no BMC at {self.host}:{self.port} ({reason[0]}): it needs pyghmi, and an address of here")
        self.port = int(said)
        self._answering = threading.Thread(target=self._answer, args=(process,))
        self._answering.start()

    def stop(self) -> None:
        """End its process and wait for it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(_STOP_S)
        if self._answering is not None:
            self._answering.join(_STOP_S)
            self._answering = None
        if process is not None:
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with suppress(BrokenPipeError):
                        stream.close()
        super().stop()

    def _answer(self, process: subprocess.Popen[str]) -> None:
        if process.stdin is None or process.stdout is None:
            return
        for question in process.stdout:
            if question.strip() == "off":
                reply = "ok" if self._off() else "silence"
            else:
                on = self._power()
                reply = "silence" if on is None else str(int(on))
            with suppress(BrokenPipeError):
                process.stdin.write(f"{reply}\n")
                process.stdin.flush()


class RedfishBmc(_Bmc):
    """A controller that speaks Redfish: sessions or basic authentication, one ComputerSystem, its power."""

    def __init__(
        self,
        powered: Callable[[], bool],
        power_off: Callable[[], None],
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        user: str = "admin",
        password: str = "secret",  # noqa: S107 - of a machine that is none
        system: str = "1",
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        """`powered` and `power_off` are called in threads. With `certificate` and `key` (PEM) it speaks HTTPS."""
        super().__init__(powered, power_off)
        self.host = address
        self.port = port
        self.system = system
        self.sessions: set[str] = set()
        """The tokens of the sessions that are open."""
        self._login = (user, password)
        self._tls = (certificate, key)
        self._server: ThreadingHTTPServer | None = None
        self._serving: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it answers, once started."""
        return f"http{'s' if self._tls[0] else ''}://{self.host}:{self.port}"

    def start(self) -> None:
        """Return when it answers.

        Raises:
            LabError: it cannot listen there.

        """
        try:
            server = ThreadingHTTPServer((self.host, self.port), self._handler())
        except OSError as error:
            raise LabError(f"no BMC at {self.host}:{self.port}: {error.strerror or error}") from None
        certificate, key = self._tls
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            # The handshake is each connection's own: a client that leaves in its middle must not hold up the others.
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = server.server_port
        self._server = server
        self._serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        self._serving.start()

    def stop(self) -> None:
        """End it and wait for what it is doing."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        if self._serving is not None:
            self._serving.join(_STOP_S)
            self._serving = None
        super().stop()

    def answer(self, method: str, path: str, headers: Any, body: dict[str, Any]) -> _Answer | None:
        """What it says to a request; None: nothing, and the connection ends."""
        if self.fault is BmcFault.DEAF:
            return None
        path = path.rstrip("/")
        if (method, path) == ("GET", "/redfish/v1"):
            return 200, _SERVICE_ROOT, {}
        if (method, path) == ("POST", _SESSIONS):
            return self._open_session(body)
        if not self._let_in(headers):
            return 401, _error("Base.1.8.NoValidSession", "There is no valid session established."), {}
        here = f"/redfish/v1/Systems/{self.system}"
        if method == "DELETE" and path.startswith(_SESSIONS):
            self.sessions.discard(path.rpartition("/")[2])
            return 204, None, {}
        if (method, path) == ("GET", "/redfish/v1/Systems"):
            return 200, _systems(here), {}
        if (method, path) == ("GET", here):
            return 200, _computer_system(here, self.system, on=bool(self._power())), {}
        if (method, path) == ("POST", f"{here}/Actions/ComputerSystem.Reset"):
            return self._reset(body)
        return 404, _error("Base.1.8.ResourceMissingAtURI", f"The resource at the URI {path} was not found."), {}

    def _open_session(self, body: dict[str, Any]) -> _Answer:
        if (body.get("UserName"), body.get("Password")) != self._login:
            return 401, _error("Base.1.8.ResourceAtUriUnauthorized", "The user name or password is wrong."), {}
        token = secrets.token_hex(8)
        self.sessions.add(token)
        path = f"{_SESSIONS}/{token}"
        session = {"@odata.id": path, "@odata.type": "#Session.v1_3_0.Session", "Id": token, "Name": "User Session"}
        return 201, {**session, "UserName": self._login[0]}, {"X-Auth-Token": token, "Location": path}

    def _let_in(self, headers: Any) -> bool:
        basic = base64.b64encode(":".join(self._login).encode()).decode()
        return headers.get("X-Auth-Token") in self.sessions or headers.get("Authorization") == f"Basic {basic}"

    def _reset(self, body: dict[str, Any]) -> _Answer | None:
        if body.get("ResetType") != "ForceOff":
            return 400, _error("Base.1.8.ActionParameterNotSupported", "Only ForceOff is supported here."), {}
        if not self._powered():
            return 409, _error("Base.1.8.ResourceInUse", "The host is powered off already."), {}
        return (204, None, {}) if self._off() else None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        bmc = self

        class Handler(BaseHTTPRequestHandler):
            timeout = _STOP_S

            def handle(self) -> None:
                # Whoever does not trust the certificate leaves in the middle of the handshake, or says nothing more.
                with suppress(OSError):
                    super().handle()

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                try:
                    body = json.loads(self.rfile.read(length) or b"{}")
                except ValueError:
                    body = {}
                answer = bmc.answer(self.command, self.path, self.headers, body)
                self.close_connection = True
                if answer is None:
                    return
                status, said, headers = answer
                content = b"" if said is None else json.dumps(said).encode()
                self.send_response(status)
                for name, value in {**headers, "OData-Version": "4.0", "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = _serve  # noqa: N815 - the names that http.server calls

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's own name
                """Say nothing."""

        return Handler


_Answer = tuple[int, dict[str, Any] | None, dict[str, str]]
"""Status, body and headers."""

_SESSIONS = "/redfish/v1/SessionService/Sessions"
_SERVICE_ROOT = {
    "@odata.id": "/redfish/v1/",
    "@odata.type": "#ServiceRoot.v1_5_0.ServiceRoot",
    "Id": "RootService",
    "Name": "Root Service",
    "RedfishVersion": "1.6.0",
    "Systems": {"@odata.id": "/redfish/v1/Systems"},
    "SessionService": {"@odata.id": "/redfish/v1/SessionService"},
    "Links": {"Sessions": {"@odata.id": _SESSIONS}},
}


def _systems(member: str) -> dict[str, Any]:
    return {
        "@odata.id": "/redfish/v1/Systems",
        "@odata.type": "#ComputerSystemCollection.ComputerSystemCollection",
        "Name": "Computer System Collection",
        "Members@odata.count": 1,
        "Members": [{"@odata.id": member}],
    }


def _computer_system(path: str, name: str, *, on: bool) -> dict[str, Any]:
    return {
        "@odata.id": path,
        "@odata.type": "#ComputerSystem.v1_10_0.ComputerSystem",
        "Id": name,
        "Name": name,
        "SystemType": "Physical",
        "PowerState": "On" if on else "Off",
        "Status": {"State": "Enabled", "Health": "OK"},
        "Actions": {
            "#ComputerSystem.Reset": {
                "target": f"{path}/Actions/ComputerSystem.Reset",
                "ResetType@Redfish.AllowableValues": ["ForceOff"],
            }
        },
    }


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "@Message.ExtendedInfo": [{"MessageId": code}]}}
