"""Hyper-V's states in this project's words. PowerShell's names are compared, never numbers: WMI numbers differently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from failover_orch.domain.inventory import IntegrationServices, NodeState
from failover_orch.domain.replication import ReplicationHealth, ReplicationMode, ReplicationState
from failover_orch.errors import StepFailed
from failover_orch.hypervisors.protocol import Power

__all__ = ["UNDER_WAY", "health_of", "mode_of", "node_state_of", "power_of", "services_of", "state_of"]

_Value = TypeVar("_Value")
_State = ReplicationState

_STATES: Mapping[str, ReplicationState] = {
    "Disabled": _State.DISABLED,
    "ReadyForInitialReplication": _State.READY_FOR_INITIAL_REPLICATION,
    "InitialReplicationInProgress": _State.WAITING_FOR_INITIAL_REPLICATION,
    "WaitingForInitialReplication": _State.WAITING_FOR_INITIAL_REPLICATION,
    "Replicating": _State.REPLICATING,
    "PreparedForFailover": _State.PREPARED,
    "FailedOverWaitingCompletion": _State.FAILED_OVER_WAITING_COMPLETION,
    "FailedOver": _State.FAILED_OVER,
    "Suspended": _State.SUSPENDED,
    "Error": _State.ERROR,
    "WaitingForStartResynchronize": _State.WAITING_FOR_RESYNCHRONIZE,
    "Resynchronizing": _State.RESYNCHRONIZING,
    "ResynchronizeSuspended": _State.RESYNCHRONIZE_SUSPENDED,
    "RecoveryInProgress": _State.FAILED_OVER_WAITING_COMPLETION,
    "FailbackInProgress": _State.FAILED_OVER_WAITING_COMPLETION,
    "FailbackComplete": _State.FAILED_OVER_WAITING_COMPLETION,
    "WaitingForUpdateCompletion": _State.REPLICATING,
    "UpdateError": _State.ERROR,
    "WaitingForRepurposeCompletion": _State.WAITING_FOR_INITIAL_REPLICATION,
    "PreparedForSyncReplication": _State.REPLICATING,
    "PreparedForGroupReverseReplication": _State.PREPARED,
    "FiredrillInProgress": _State.REPLICATING,
}
"""Those that have none of ours are told as the nearest."""

UNDER_WAY = frozenset(
    {
        "RecoveryInProgress",
        "FailbackInProgress",
        "WaitingForUpdateCompletion",
        "WaitingForRepurposeCompletion",
        "FiredrillInProgress",
    }
)
"""States in which the host is at something itself: nothing else is to be begun until that has ended."""

_OFF = frozenset({"Off", "Saved", "FastSaved", "Hibernated", "OffCritical", "SavedCritical", "FastSavedCritical"})
_MODES = {mode.value: mode for mode in ReplicationMode}
_HEALTH = {health.value: health for health in ReplicationHealth}
_NODE_STATES: Mapping[str, NodeState] = {"Up": NodeState.UP, "Paused": NodeState.PAUSED}
_SERVICES: Mapping[str, IntegrationServices] = {
    "Ok": IntegrationServices.RUNNING,
    "OK": IntegrationServices.RUNNING,
    "ProtocolMismatch": IntegrationServices.OUTDATED,
    # They did answer since the guest was started: it hangs, or its host is dying.
    "LostCommunication": IntegrationServices.UNKNOWN,
}


def state_of(name: str) -> ReplicationState:
    """Where replication stands.

    Raises:
        StepFailed: a state that this version does not know.

    """
    return _known(_STATES, name or "Disabled", "replication state")


def mode_of(name: str) -> ReplicationMode:
    """Which end of a replication a VM is.

    Raises:
        StepFailed: a mode that this version does not know.

    """
    return _known(_MODES, name or "None", "replication mode")


def health_of(name: str) -> ReplicationHealth:
    """How well replication goes, in the host's own judgement."""
    return _HEALTH.get(name, ReplicationHealth.NOT_APPLICABLE)


def power_of(name: str) -> Power:
    """Whether a VM is on. What is neither clearly off nor saved counts as running: nothing is started beside it."""
    return Power.OFF if name in _OFF else Power.RUNNING


def node_state_of(name: str) -> NodeState:
    """A cluster node's state. One that is joining or unknown does not work (yet)."""
    return _NODE_STATES.get(name, NodeState.DOWN)


def services_of(enabled: bool, status: str) -> IntegrationServices:
    """The state of an integration service in a running guest."""
    return _SERVICES.get(status, IntegrationServices.ABSENT) if enabled else IntegrationServices.ABSENT


def _known(table: Mapping[str, _Value], name: str, what: str) -> _Value:
    try:
        return table[name]
    except KeyError:
        raise StepFailed(f"the host names the {what} {name!r}, which this version does not know") from None
