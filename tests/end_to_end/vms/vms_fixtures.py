"""The installation that the tests of real VMs share, and their hands on it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest
from vms_hands import Hands, hands_on
from vms_installation import Installation, installed

__all__ = ["hands", "installation", "shared"]


class Shared:
    """One installation for all tests, for as long as it is good for the next one."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._installation: Installation | None = None

    def take(self) -> Installation:
        """The installation, made where there is none."""
        if self._installation is None:
            self._installation = self._stack.enter_context(installed())
        return self._installation

    def drop(self) -> None:
        """End it: whoever comes next gets another one."""
        self._installation = None
        self._stack.close()


@pytest.fixture(scope="session")
def shared() -> Iterator[Shared]:
    """Where a lab cannot be, what needs one is left out; in CI it fails."""
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("a lab of libvirt nodes is for root to make")
    shared = Shared()
    yield shared
    shared.drop()


@pytest.fixture
def installation(shared: Shared) -> Installation:
    """A running installation. A test leaves the VM wherever it likes: see `Hands.settled`."""
    return shared.take()


@pytest.fixture
async def hands(shared: Shared, installation: Installation) -> AsyncIterator[Hands]:
    """A test's hands; afterwards whatever was seen of the VM meanwhile is judged."""
    async with hands_on(installation) as hands:
        yield hands
        seen, at_rest = hands.oracle.violations(), hands.vm.run is None
    if seen or not at_rest:
        installation.show()
        shared.drop()
    assert seen == []
