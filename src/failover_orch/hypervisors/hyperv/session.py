"""One session with a node: a runspace pool over WinRM. The only module that knows pypsrp."""

from __future__ import annotations

import ssl
import time
from http.client import HTTPException
from typing import Any
from xml.etree import ElementTree as ET

from pypsrp.complex_objects import PSInvocationState
from pypsrp.exceptions import AuthenticationError, WinRMError, WSManFaultError
from pypsrp.powershell import PowerShell, RunspacePool
from pypsrp.wsman import WSMan

from failover_orch.errors import StepRefused
from failover_orch.hypervisors.hyperv.cmdlets import Pipeline
from failover_orch.hypervisors.hyperv.failures import AnswerLost, HostError, HostRefused, NotBegun
from failover_orch.hypervisors.hyperv.settings import HyperVNode

__all__ = ["Session"]

_POLL_S = 5
"""How long the node may hold a request for output before it says that there is none yet."""
_SHELL_GONE = frozenset({2150858843, 2150858817})
"""WinRM's faults for a shell that it does not know (any more), and for one whose name it cannot make out."""
_LONGEST = 500
_NOW_OR_LATER = frozenset({"AccessDenied", "InvalidParameter", "InvalidState", "ObjectNotFound"})
_CLIENT = (WinRMError, OSError, ET.ParseError)
"""What pypsrp raises: its own errors, those of the connection (requests' are OSErrors), and of answers cut short."""


class Session:
    """A runspace pool of one runspace. For one caller at a time.

    Raises:
        NotBegun: the node does not answer.
        StepRefused: it does not accept the account, or has no such endpoint.

    """

    def __init__(self, node: HyperVNode, *, connect_timeout_s: float) -> None:
        self._node = node
        login = node.login
        self._connection = WSMan(
            node.address,
            port=node.endpoint_port,
            username=login.username or None,
            password=login.password or None,
            ssl=node.tls,
            auth=login.authentication.value,
            cert_validation=str(node.ca_file) if node.ca_file else True,
            encryption="auto" if node.tls else "always",
            connection_timeout=connect_timeout_s,
            operation_timeout=_POLL_S,
            read_timeout=_POLL_S + 2,
            # Whoever asks waits no longer than the deadline of the call; a pause in here would only use it up.
            reconnection_backoff=0,
            no_proxy=True,
        )
        self._pool = RunspacePool(self._connection)
        try:
            self._pool.open()
        except AuthenticationError:
            raise StepRefused(
                f"{node.name} does not accept {login.username or 'the ticket'} by {login.authentication}: check name, "
                "password and what its WinRM service allows"
            ) from None
        except _CLIENT as error:
            where = f"{node.address}:{node.endpoint_port}"
            raise NotBegun(f"{node.name} cannot be reached at {where}: {_said(error)}") from error

    def run(self, pipeline: Pipeline, deadline_s: float) -> list[Any]:
        """Run it and give what it puts out. `deadline_s` is of `time.monotonic`.

        Raises:
            NotBegun: the session is gone, nothing was begun.
            AnswerLost: no answer by the deadline, or the connection was lost on the way.
            HostRefused: the node will not do it as things are.
            HostError: the node tried and failed.

        """
        shell = PowerShell(self._pool)
        for cmdlet in pipeline.cmdlets:
            shell.add_cmdlet(cmdlet.name).add_parameters(dict(cmdlet.parameters))
        try:
            shell.begin_invoke()
        except AuthenticationError:
            raise NotBegun(f"{self._node.name} has ended the session: it wants to be logged in to again") from None
        except WSManFaultError as error:
            if error.code in _SHELL_GONE:
                raise NotBegun(f"{self._node.name} has ended the session") from None
            raise self._lost(pipeline, error) from error
        except _CLIENT as error:
            raise self._lost(pipeline, error) from error
        try:
            self._await_end(shell, pipeline, deadline_s)
        except _CLIENT as error:
            raise self._lost(pipeline, error) from error
        if shell.streams.error:
            raise self._host_error(pipeline, shell.streams.error[0])
        if shell.state != PSInvocationState.COMPLETED:
            raise AnswerLost(f"{self._node.name} broke {pipeline} off without a reason")
        return list(shell.output)

    def close(self) -> None:
        """Let the node forget the session, if it is there to be told."""
        try:
            self._pool.close()
        except _CLIENT:
            pass
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of the connection, whatever is under way on it."""
        self._connection.close()

    def _await_end(self, shell: PowerShell, pipeline: Pipeline, deadline_s: float) -> None:
        while shell.state == PSInvocationState.RUNNING:
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0:
                # Stopped, so that it does not happen later, when somebody else has been told that it did not.
                shell.stop()
                raise AnswerLost(f"{self._node.name} did not end {pipeline} in time, and was told to stop it")
            shell.poll_invoke(timeout=max(1, min(_POLL_S, round(remaining_s))))
        shell.close()

    def _lost(self, pipeline: Pipeline, error: Exception) -> AnswerLost:
        return AnswerLost(f"{self._node.name} was lost while it ran {pipeline}: {_said(error)}")

    def _host_error(self, pipeline: Pipeline, record: Any) -> HostError | HostRefused:
        full_id = str(getattr(record, "fq_error", "") or "")
        error_id = full_id.partition(",")[0]
        sentence = f"{self._node.name} says to {pipeline}: {_said(record)}"
        if error_id == "CommandNotFoundException":
            sentence += "; are the Hyper-V and failover clustering modules installed there?"
        kind = HostRefused if error_id in _NOW_OR_LATER or error_id in _WRONG_CALL else HostError
        return kind(sentence, full_id)


_WRONG_CALL = frozenset(
    {
        "AmbiguousParameterSet",
        "CannotConvertArgument",
        "CannotConvertArgumentNoMessage",
        "CommandNotFoundException",
        "MissingMandatoryParameter",
        "NamedParameterNotFound",
        "ParameterArgumentTransformationError",
        "ParameterArgumentValidationError",
        "ScriptsNotAllowed",
    }
)
"""The node has other commands than this driver knows: to ask again does not help."""


def _said(error: object) -> str:
    """What somebody else's error says, on one line and without a full stop."""
    # pypsrp's own errors say it all; what is beneath the others tells more than they do.
    wrapped = isinstance(error, Exception) and not isinstance(error, WinRMError)
    text = _told_of(_innermost(error) if wrapped else error)
    return " ".join(text.split())[:_LONGEST].rstrip(".") or type(error).__name__


def _innermost(error: object) -> object:
    """What it all began with."""
    while isinstance(error, BaseException) and (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _told_of(error: object) -> str:
    match error:
        case WSManFaultError():
            return str(error.reason or error)
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}"
        case HTTPException():
            return "its answer was cut short"
        case OSError() if error.strerror:
            return error.strerror
        case _:
            return str(error)
