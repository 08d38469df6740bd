"""The topology files that come with the project."""

from __future__ import annotations

from pathlib import Path

from failover_orch.errors import ConfigError

__all__ = ["bundled"]

_PACKAGE = Path(__file__).parents[1]
_PLACES = (_PACKAGE / "topologies", _PACKAGE.parents[1] / "topologies")
"""Beside the package when installed, at the repository's root in a checkout."""


def bundled(name: str) -> Path:
    """Where the topology `name` (`two-sites`) that comes with the project is.

    Raises:
        ConfigError: there is none of that name.

    """
    known = {path.stem: path for place in reversed(_PLACES) for path in sorted(place.glob("*.yaml"))}
    if name not in known:
        raise ConfigError(f"no topology {name!r} comes with failover-orch; there are: {', '.join(known) or 'none'}")
    return known[name]
