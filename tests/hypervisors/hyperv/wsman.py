"""WS-Management as PowerShell Remoting uses it: a shell is a runspace pool, a command in it a pipeline."""

from __future__ import annotations

import base64
import re
import threading
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from psrpcore import PSRPCoreError

from hyperv.doors import AccessDenied, Answer, ConnectionCut
from hyperv.remoting import Delivery, Runspaces

__all__ = ["OPERATION_TIMEOUT", "SHELL_NOT_FOUND", "Management", "WsManFault"]

OPERATION_TIMEOUT = 2150858793
SHELL_NOT_FOUND = 2150858843
_INTERNAL_ERROR = 1359

_SOAP = "http://www.w3.org/2003/05/soap-envelope"
_ADDRESSING = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
_WSMAN = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
_TRANSFER = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
_SHELL = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
_POWERSHELL = "http://schemas.microsoft.com/powershell"
_FAULT = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault"
_CONFIG = "http://schemas.microsoft.com/wbem/wsman/1/config"
_STOP = ("powershell/signal/crtl_c", "powershell/signal/ctrl_c")
"""As the protocol's specification spells it, and as one would."""

for _prefix, _namespace in {
    "s": _SOAP,
    "a": _ADDRESSING,
    "w": _WSMAN,
    "x": _TRANSFER,
    "rsp": _SHELL,
    "f": _FAULT,
}.items():
    ET.register_namespace(_prefix, _namespace)


class WsManFault(Exception):
    """The request is answered with a fault of this code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Request:
    message_id: str
    action: str
    resource: str
    shell_id: str
    timeout_s: float
    body: ET.Element

    @classmethod
    def of(cls, envelope: bytes) -> _Request:
        root = ET.fromstring(envelope)
        header, body = root[0], root[1]
        timeout = re.fullmatch(r"PT([\d.]+)S", header.findtext(f"{{{_WSMAN}}}OperationTimeout") or "")
        return cls(
            header.findtext(f"{{{_ADDRESSING}}}MessageID") or "",
            (header.findtext(f"{{{_ADDRESSING}}}Action") or "").rpartition("/")[2],
            header.findtext(f"{{{_WSMAN}}}ResourceURI") or "",
            header.findtext(f"{{{_WSMAN}}}SelectorSet/{{{_WSMAN}}}Selector[@Name='ShellId']") or "",
            float(timeout.group(1)) if timeout else 60.0,
            body,
        )


class Management:
    """The WS-Management service of one node."""

    def __init__(self, node: str, new_runspaces: Callable[[], Runspaces], patience_s: float) -> None:
        """`patience_s` bounds operation timeouts: tests ask for tens of seconds, and need not wait for them."""
        self._node = node
        self._new_runspaces = new_runspaces
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._shells: dict[str, Runspaces] = {}
        self._do: Mapping[str, Callable[[_Request], ET.Element | None]] = {
            "Create": self._create,
            "Command": self._command,
            "Send": self._send,
            "Receive": self._receive,
            "Signal": self._signal,
            "Delete": self._delete,
            "Get": self._get,
        }

    def answer(self, envelope: bytes) -> Answer:
        """Answer a request.

        Raises:
            ConnectionCut: half the answer is to be sent, and then nothing.
            AccessDenied: 401 is to be the answer.

        """
        request = _Request.of(envelope)
        try:
            body = self._do[request.action](request)
        except (KeyError, ValueError, PSRPCoreError) as error:
            # What cannot be read is answered, or the client would wait for its time-out.
            unread = WsManFault(_INTERNAL_ERROR, f"The request cannot be read: {error}")
            return Answer(_envelope(request, _fault(unread, self._node), "fault"), fault=True)
        except WsManFault as fault:
            return Answer(_envelope(request, _fault(fault, self._node), "fault"), fault=True)
        answer = _envelope(request, body, f"{request.action}Response")
        if request.action == "Receive" and self._shell(request).is_to_be_cut(_command_id(request)):
            raise ConnectionCut(answer)
        return Answer(answer)

    def forget(self) -> None:
        """End every shell, as a node that loses its power does."""
        with self._lock:
            shells, self._shells = self._shells, {}
        for shell in shells.values():
            shell.close()

    def shells(self) -> int:
        """How many shells are open."""
        with self._lock:
            return len(self._shells)

    def _shell(self, request: _Request) -> Runspaces:
        with self._lock:
            shell = self._shells.get(request.shell_id)
        if shell is None:
            raise WsManFault(
                SHELL_NOT_FOUND,
                f"The request for the Windows Remote Shell with ShellId {request.shell_id} failed because the shell "
                "was not found on the server.",
            )
        return shell

    def _create(self, request: _Request) -> ET.Element:
        asked = request.body[0]
        shell_id = asked.get("ShellId") or str(uuid.uuid4()).upper()
        runspaces = self._new_runspaces()
        runspaces.feed(_decoded(asked.findtext(f"{{{_POWERSHELL}}}creationXml")))
        with self._lock:
            self._shells[shell_id] = runspaces
        shell = ET.Element(f"{{{_SHELL}}}Shell")
        for name, text in (
            ("ShellId", shell_id),
            ("ResourceUri", request.resource),
            ("InputStreams", "stdin pr"),
            ("OutputStreams", "stdout"),
            ("State", "Connected"),
        ):
            ET.SubElement(shell, f"{{{_SHELL}}}{name}").text = text
        created = ET.Element(f"{{{_TRANSFER}}}ResourceCreated")
        parameters = ET.SubElement(created, f"{{{_ADDRESSING}}}ReferenceParameters")
        ET.SubElement(parameters, f"{{{_WSMAN}}}ResourceURI").text = request.resource
        selectors = ET.SubElement(parameters, f"{{{_WSMAN}}}SelectorSet")
        ET.SubElement(selectors, f"{{{_WSMAN}}}Selector", Name="ShellId").text = shell_id
        both = ET.Element("both")
        both.extend([created, shell])
        return both

    def _command(self, request: _Request) -> ET.Element:
        shell = self._shell(request)
        line = request.body[0]
        command_id = line.get("CommandId") or str(uuid.uuid4()).upper()
        delivery = shell.begin(uuid.UUID(command_id), _decoded(line.findtext(f"{{{_SHELL}}}Arguments")))
        if delivery is Delivery.SHELL_GONE:
            with self._lock:
                self._shells.pop(request.shell_id, None)
            shell.close()
            self._shell(request)
        if delivery is Delivery.DENIED:
            raise AccessDenied
        if delivery is Delivery.TIMEOUT:
            raise _timed_out()
        response = ET.Element(f"{{{_SHELL}}}CommandResponse")
        ET.SubElement(response, f"{{{_SHELL}}}CommandId").text = command_id
        return response

    def _send(self, request: _Request) -> ET.Element:
        shell = self._shell(request)
        for stream in request.body.iter(f"{{{_SHELL}}}Stream"):
            shell.feed(_decoded(stream.text))
        return ET.Element(f"{{{_SHELL}}}SendResponse")

    def _receive(self, request: _Request) -> ET.Element:
        shell = self._shell(request)
        command_id = _command_id(request)
        received = shell.receive(command_id, min(request.timeout_s, self._patience_s), request.message_id)
        if received is None:
            # The shell may have gone while its output was waited for.
            self._shell(request)
            raise _timed_out()
        response = ET.Element(f"{{{_SHELL}}}ReceiveResponse")
        attributes = {} if command_id is None else {"CommandId": str(command_id).upper()}
        stream = ET.SubElement(response, f"{{{_SHELL}}}Stream", {"Name": "stdout", **attributes})
        stream.text = base64.b64encode(received.data).decode()
        if command_id is not None:
            state = "Done" if received.done else "Running"
            ET.SubElement(
                response, f"{{{_SHELL}}}CommandState", {**attributes, "State": f"{_SHELL}/CommandState/{state}"}
            )
        return response

    def _signal(self, request: _Request) -> ET.Element:
        signal = request.body[0]
        shell = self._shell(request)
        pipeline_id = uuid.UUID(signal.get("CommandId"))
        if (signal.findtext(f"{{{_SHELL}}}Code") or "").endswith(_STOP):
            shell.stop(pipeline_id)
        else:
            shell.end(pipeline_id)
        return ET.Element(f"{{{_SHELL}}}SignalResponse")

    def _delete(self, request: _Request) -> None:
        self._shell(request).close()
        with self._lock:
            self._shells.pop(request.shell_id, None)

    def _get(self, request: _Request) -> ET.Element:
        if request.resource.endswith("/config"):
            config = ET.Element(f"{{{_CONFIG}}}Config")
            ET.SubElement(config, f"{{{_CONFIG}}}MaxEnvelopeSizekb").text = "500"
            return config
        self._shell(request)
        shell = ET.Element(f"{{{_SHELL}}}Shell")
        ET.SubElement(shell, f"{{{_SHELL}}}ShellId").text = request.shell_id
        ET.SubElement(shell, f"{{{_SHELL}}}State").text = "Connected"
        return shell


def _command_id(request: _Request) -> uuid.UUID | None:
    stream = request.body.find(f"{{{_SHELL}}}Receive/{{{_SHELL}}}DesiredStream")
    named = None if stream is None else stream.get("CommandId")
    return uuid.UUID(named) if named else None


def _decoded(text: str | None) -> bytes:
    return base64.b64decode(text or "")


def _timed_out() -> WsManFault:
    return WsManFault(
        OPERATION_TIMEOUT, "The WS-Management service cannot complete the operation within the time specified."
    )


def _fault(fault: WsManFault, node: str) -> ET.Element:
    element = ET.Element(f"{{{_SOAP}}}Fault")
    code = ET.SubElement(element, f"{{{_SOAP}}}Code")
    ET.SubElement(code, f"{{{_SOAP}}}Value").text = "s:Receiver"
    subcode = ET.SubElement(code, f"{{{_SOAP}}}Subcode")
    ET.SubElement(subcode, f"{{{_SOAP}}}Value").text = (
        "w:TimedOut" if fault.code == OPERATION_TIMEOUT else "w:InvalidSelectors"
    )
    reason = ET.SubElement(element, f"{{{_SOAP}}}Reason")
    ET.SubElement(reason, f"{{{_SOAP}}}Text").text = str(fault)
    detail = ET.SubElement(element, f"{{{_SOAP}}}Detail")
    wsman = ET.SubElement(detail, f"{{{_FAULT}}}WSManFault", Code=str(fault.code), Machine=node)
    ET.SubElement(wsman, f"{{{_FAULT}}}Message").text = str(fault)
    return element


def _envelope(request: _Request, content: ET.Element | None, action: str) -> bytes:
    envelope = ET.Element(f"{{{_SOAP}}}Envelope")
    header = ET.SubElement(envelope, f"{{{_SOAP}}}Header")
    ET.SubElement(header, f"{{{_ADDRESSING}}}Action").text = f"{_SHELL}/{action}"
    ET.SubElement(header, f"{{{_ADDRESSING}}}MessageID").text = f"uuid:{str(uuid.uuid4()).upper()}"
    ET.SubElement(header, f"{{{_ADDRESSING}}}RelatesTo").text = request.message_id
    body = ET.SubElement(envelope, f"{{{_SOAP}}}Body")
    if content is not None:
        body.extend(content if content.tag == "both" else [content])
    encoded: bytes = ET.tostring(envelope, encoding="utf-8")
    return encoded
