"""The stand-in as a fixture: import it into a module of tests, or its conftest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hyperv.standin import StandIn

__all__ = ["stand_in"]


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    """Hosts of a test's own, with one VM. Faults that were armed have to have happened by the end."""
    with StandIn() as hosts:
        yield hosts
        assert hosts.faults_left() == ()
