"""A lab for the tests of this directory, and guests on it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_guests import Guests

from failover_orch.lab import Lab

NODES = {"p1": "primary", "p2": "primary", "d1": "dr"}
ROOT_FIXTURES = frozenset({"place", "small_lab"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where a lab cannot be, what needs one is left out; in CI it fails."""
    if os.geteuid() == 0 or os.environ.get("CI"):
        return
    for item in items:
        if ROOT_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.skip(reason="a lab of libvirt nodes is for root to make"))


@pytest.fixture
def place() -> Iterator[Path]:
    """Where a lab may be made. The path is short: those of sockets may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="fo-") as directory:
        yield Path(directory) / "lab"


@pytest.fixture(scope="module")
def small_lab() -> Iterator[Lab]:
    """Nodes p1 and p2 at `primary`, d1 at `dr`. A test undoes what it did to them."""
    with tempfile.TemporaryDirectory(prefix="fo-") as directory:
        lab = Lab(Path(directory) / "lab", NODES)
        lab.start()
        try:
            yield lab
        finally:
            lab.stop()


@pytest.fixture
def guests(small_lab: Lab) -> Iterator[Guests]:
    """Makes guests on the nodes; they go with the test."""
    made = Guests(small_lab)
    yield made
    made.clear()
