"""The installation that the tests of real VMs share, and their hands on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from vms_hands import Hands, hands_on
from vms_installation import Installation, installed

__all__ = ["hands", "installation"]


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    """Started at the first test that needs it. A test leaves the VM wherever it likes: see `Hands.settled`."""
    with installed() as installation:
        yield installation


@pytest.fixture
async def hands(installation: Installation) -> AsyncIterator[Hands]:
    """A test's hands; afterwards whatever was seen of the VM meanwhile is judged."""
    async with hands_on(installation) as hands:
        yield hands
        assert hands.oracle.violations() == []
