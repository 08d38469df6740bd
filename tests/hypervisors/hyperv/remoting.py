"""A runspace pool of a node: PowerShell Remoting's messages in and out, by psrpcore's server side."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from psrpcore import (
    Command,
    CreatePipelineEvent,
    EndOfPipelineInputEvent,
    GetAvailableRunspacesEvent,
    PipelineInputEvent,
    PowerShell,
    PSRPPayload,
    ServerPipeline,
    ServerRunspacePool,
    SetMaxRunspacesEvent,
    SetMinRunspacesEvent,
    StreamType,
)
from psrpcore.types import (
    ErrorCategory,
    ErrorCategoryInfo,
    ErrorRecord,
    NETException,
    PSInvocationState,
    RunspacePoolState,
)

from hyperv.errors import PowerShellError

__all__ = ["Delivery", "Outcome", "Received", "Runspaces"]


class Delivery(Enum):
    """How the outcome of a pipeline gets to whoever asked for it."""

    WHOLE = "whole"
    LATE = "late"
    """Not before one operation has timed out."""
    CUT = "cut"
    """The connection ends in the middle of it."""
    NEVER = "never"
    TIMEOUT = "timeout"
    """The command itself is answered with a time-out."""
    SHELL_GONE = "shell gone"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pipeline came to: objects, errors that did not end it, and the one that did."""

    output: Sequence[Any] = ()
    errors: Sequence[PowerShellError] = ()
    failure: PowerShellError | None = None
    delivery: Delivery = Delivery.WHOLE


class Runs(Protocol):
    """Whatever runs the commands of a pipeline."""

    def __call__(self, commands: Sequence[Command], inputs: Sequence[Any]) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Received:
    """Output of a pipeline, or of the pool; `done`: no more comes."""

    data: bytes
    done: bool


@dataclass(slots=True)
class _Running:
    """A pipeline on its way."""

    pipeline: ServerPipeline
    inputs: list[Any] = field(default_factory=list)
    delivery: Delivery = Delivery.WHOLE
    done: bool = False


class Runspaces:
    """One pool. Pipelines above the number of its runspaces wait until others end, as they do on Windows."""

    def __init__(self, run: Runs) -> None:
        self._run = run
        self._changed = threading.Condition()
        self._pool = ServerRunspacePool()
        self._outbox: dict[uuid.UUID | None, bytes] = {None: b""}
        self._given: dict[uuid.UUID | None, tuple[str, Received]] = {}
        """The last output that was given, and the id of the request for it."""
        self._pipelines: dict[uuid.UUID, _Running] = {}
        self._waiting: list[_Running] = []
        self._closed = False

    def begin(self, pipeline_id: uuid.UUID, data: bytes) -> Delivery:
        """Take the first message of a new pipeline; returns how its outcome is delivered, as far as that shows now."""
        with self._changed:
            self._pipelines[pipeline_id] = _Running(ServerPipeline(self._pool, pipeline_id))
            self._outbox[pipeline_id] = b""
        self.feed(data)
        with self._changed:
            return self._pipelines[pipeline_id].delivery

    def feed(self, data: bytes) -> None:
        """Take messages of the pool or of a pipeline."""
        with self._changed:
            if self._closed:
                return
            self._pool.receive_data(PSRPPayload(data, StreamType.default, None))
            while event := self._pool.next_event():
                if isinstance(event, CreatePipelineEvent) and event.pipeline.no_input:
                    self._start(self._pipelines[event.pipeline_id])
                elif isinstance(event, PipelineInputEvent):
                    self._pipelines[event.pipeline_id].inputs.append(event.data)
                elif isinstance(event, EndOfPipelineInputEvent):
                    self._start(self._pipelines[event.pipeline_id])
                elif isinstance(event, GetAvailableRunspacesEvent):
                    self._pool.runspace_availability_response(event.ci, self._pool.max_runspaces - self._busy())
                elif isinstance(event, (SetMaxRunspacesEvent, SetMinRunspacesEvent)):
                    self._pool.runspace_availability_response(event.ci, True)
            self._post()

    def receive(self, pipeline_id: uuid.UUID | None, timeout_s: float, message_id: str) -> Received | None:
        """What has come of the pipeline (None: of the pool) since the last request; None if nothing does in that time.

        A client that did not get the answer in time sends the same request again, and is given the same again.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._something_for(pipeline_id, message_id), timeout_s):
                return None
            if self._closed:
                return None
            asked, given = self._given.get(pipeline_id, ("", Received(b"", done=False)))
            if asked == message_id:
                return given
            running = self._pipelines.get(pipeline_id) if pipeline_id else None
            if running is not None and running.delivery is Delivery.LATE:
                running.delivery = Delivery.WHOLE
                return None
            data, self._outbox[pipeline_id] = self._outbox.get(pipeline_id, b""), b""
            received = Received(data, done=pipeline_id is not None and (running is None or running.done))
            self._given[pipeline_id] = (message_id, received)
            self._changed.notify_all()
            return received

    def is_to_be_cut(self, pipeline_id: uuid.UUID | None) -> bool:
        with self._changed:
            running = self._pipelines.get(pipeline_id) if pipeline_id else None
            return running is not None and running.delivery is Delivery.CUT

    def stop(self, pipeline_id: uuid.UUID) -> None:
        """Stop a pipeline, as Ctrl-C does."""
        with self._changed:
            running = self._pipelines.get(pipeline_id)
            if running is not None and not running.done:
                if running in self._waiting:
                    self._waiting.remove(running)
                    running.pipeline.start()
                running.pipeline.begin_stop()
                running.pipeline.stop()
                running.done = True
                self._post()
            self._end(pipeline_id)

    def end(self, pipeline_id: uuid.UUID) -> None:
        """Forget a pipeline, which has come to its end or else comes to it now."""
        with self._changed:
            self._end(pipeline_id)

    def close(self) -> None:
        """End the pool and whoever waits for something of it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _end(self, pipeline_id: uuid.UUID) -> None:
        running = self._pipelines.pop(pipeline_id, None)
        if running is not None:
            self._pool.pipeline_table.pop(pipeline_id, None)
            if running in self._waiting:
                self._waiting.remove(running)
        self._outbox.pop(pipeline_id, None)
        self._given.pop(pipeline_id, None)
        self._start_waiting()
        self._changed.notify_all()

    def _something_for(self, pipeline_id: uuid.UUID | None, message_id: str) -> bool:
        if self._closed or self._given.get(pipeline_id, ("",))[0] == message_id:
            return True
        if pipeline_id is not None and (pipeline_id not in self._pipelines or self._pipelines[pipeline_id].done):
            return True
        return bool(self._outbox.get(pipeline_id))

    def _busy(self) -> int:
        return sum(
            running.pipeline.state is PSInvocationState.Running and not running.done
            for running in self._pipelines.values()
        )

    def _start(self, running: _Running) -> None:
        if self._busy() >= max(1, self._pool.max_runspaces):
            self._waiting.append(running)
            return
        running.pipeline.start()
        commands: PowerShell = running.pipeline.metadata
        outcome = self._run(commands.commands, running.inputs)
        running.delivery = outcome.delivery
        if outcome.delivery is not Delivery.NEVER:
            _tell(running.pipeline, outcome)
            running.done = True
        self._start_waiting()

    def _start_waiting(self) -> None:
        while self._waiting and self._busy() < max(1, self._pool.max_runspaces):
            self._start(self._waiting.pop(0))
        self._post()

    def _post(self) -> None:
        """Move what the pool has to send to where it will be asked for."""
        if self._pool.state is RunspacePoolState.BeforeOpen:
            return
        while payload := self._pool.data_to_send():
            self._outbox[payload.pipeline_id] = self._outbox.get(payload.pipeline_id, b"") + payload.data
        self._changed.notify_all()


def _tell(pipeline: ServerPipeline, outcome: Outcome) -> None:
    for value in outcome.output:
        pipeline.write_output(value)
    for error in outcome.errors:
        record = _record(error)
        pipeline.write_error(
            record.Exception, record.CategoryInfo, error.target, fully_qualified_error_id=record.FullyQualifiedErrorId
        )
    if outcome.failure is None:
        pipeline.complete()
    else:
        # The library has a way to complete a pipeline and one to stop it, but none to fail it.
        pipeline._change_state(PSInvocationState.Failed, error=_record(outcome.failure))


def _record(error: PowerShellError) -> ErrorRecord:
    exception = NETException(Message=error.message, HResult=-2146233087)
    exception.PSObject.type_names = [*error.exceptions, *exception.PSObject.type_names]
    category = ErrorCategoryInfo(
        Category=ErrorCategory[error.category],
        Activity=error.cmdlet,
        Reason=error.exceptions[0].rpartition(".")[2],
        TargetName=error.target,
        TargetType="String" if error.target else "",
    )
    return ErrorRecord(
        Exception=exception,
        CategoryInfo=category,
        TargetObject=error.target or None,
        FullyQualifiedErrorId=error.error_id,
    )
