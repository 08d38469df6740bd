"""The installation that the tests of real VMs share, and their hands on it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from vms_hands import Hands, hands_on
from vms_installation import Installation, installed

__all__ = ["hands", "installation"]


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    """Started at the first test that needs it. A test leaves the VM wherever it likes: see `Hands.settled`.

    Where a lab cannot be, what needs one is left out; in CI it fails.
    """
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("a lab of libvirt nodes is for root to make")
    with installed() as installation:
        yield installation


@pytest.fixture
async def hands(installation: Installation) -> AsyncIterator[Hands]:
    """A test's hands; afterwards whatever was seen of the VM meanwhile is judged."""
    async with hands_on(installation) as hands:
        yield hands
        assert hands.oracle.violations() == []
