"""How a call of a host can fail."""

from __future__ import annotations

from failover_orch.errors import StepFailed, StepRefused

__all__ = ["AnswerLost", "HostError", "HostRefused", "NotBegun"]


class NotBegun(StepFailed):
    """The node was not reached, or the session was gone: nothing was begun there."""


class AnswerLost(StepFailed):
    """The command went out and no answer came: whether it was carried out, only the node can say."""


class HostError(StepFailed):
    """The node tried and failed. `error_id` is PowerShell's fully qualified one."""

    def __init__(self, sentence: str, error_id: str) -> None:
        super().__init__(sentence)
        self.error_id = error_id


class HostRefused(StepRefused):
    """The node will not do it as things are. `error_id` is PowerShell's fully qualified one."""

    def __init__(self, sentence: str, error_id: str) -> None:
        super().__init__(sentence)
        self.error_id = error_id
