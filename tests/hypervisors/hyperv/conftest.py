"""The stand-in's own tests have its fixture."""

from __future__ import annotations

from hyperv.fixtures import stand_in

__all__ = ["stand_in"]
