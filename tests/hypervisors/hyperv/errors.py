"""Errors as PowerShell knows them."""

from __future__ import annotations

__all__ = ["HalfDone", "HyperVError", "PowerShellError"]

_BINDING = (
    "System.Management.Automation.ParameterBindingException",
    "System.Management.Automation.RuntimeException",
    "System.SystemException",
)


class PowerShellError(Exception):
    """An error record: what happened, its id, its category, and whether it ends the pipeline whatever is preferred."""

    def __init__(
        self,
        message: str,
        error_id: str,
        *,
        cmdlet: str = "",
        category: str = "InvalidArgument",
        target: str = "",
        exceptions: tuple[str, ...] = _BINDING,
        terminating: bool = True,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.error_id = error_id
        self.cmdlet = cmdlet
        self.category = category
        self.target = target
        self.exceptions = exceptions
        self.terminating = terminating


class HyperVError(Exception):
    """What a cmdlet of Hyper-V objects to: it does not end the pipeline by itself.

    `code` is the first half of the error's id: InvalidParameter, ObjectNotFound, InvalidState, OperationFailed, ...
    """

    def __init__(self, message: str, code: str = "OperationFailed", *, target: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.target = target


class HalfDone(Exception):
    """A cmdlet was interrupted by a fault of the test, when it had done half of what it does."""
