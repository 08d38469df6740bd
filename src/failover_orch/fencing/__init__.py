"""Fencing: making sure that a primary does not run, by cutting its power and reading that it is off."""

from __future__ import annotations

from failover_orch.fencing.fences import Fences, fence_agent
from failover_orch.fencing.model import FenceAgent, PowerReading, Target
from failover_orch.fencing.settings import (
    FenceSettings,
    IpmiFence,
    LibvirtFence,
    Login,
    Pace,
    PersonFence,
    Privilege,
    RedfishFence,
)

__all__ = [
    "FenceAgent",
    "FenceSettings",
    "Fences",
    "IpmiFence",
    "LibvirtFence",
    "Login",
    "Pace",
    "PersonFence",
    "PowerReading",
    "Privilege",
    "RedfishFence",
    "Target",
    "fence_agent",
]
