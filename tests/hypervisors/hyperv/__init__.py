"""Stand-in Hyper-V hosts that speak WS-Management and PowerShell Remoting, for tests of whoever drives Hyper-V.

Real are the transports, the authentication and encryption, the protocols, and the binding of parameters, which follows
Microsoft's reference. What a host then does is modelled on Hyper-V's documentation; the words of its errors are ours.
"""

from __future__ import annotations

from hyperv.creation import AdapterSpec, VmSpec
from hyperv.doors import Door
from hyperv.enumerations import VMReplicationMode, VMReplicationState, VMState
from hyperv.faults import Effect, Fault
from hyperv.standin import StandIn
from hyperv.world import GuestAddresses

__all__ = [
    "AdapterSpec",
    "Door",
    "Effect",
    "Fault",
    "GuestAddresses",
    "StandIn",
    "VMReplicationMode",
    "VMReplicationState",
    "VMState",
    "VmSpec",
]
