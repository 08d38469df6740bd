"""What tests of libvirt nodes stand on; the fixtures are in `libvirt_vms`."""

from __future__ import annotations

import os

import pytest
from libvirt_vms import four_nodes, vms

__all__ = ["four_nodes", "pytest_collection_modifyitems", "vms"]

LAB_FIXTURES = frozenset({"four_nodes", "vms"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where a lab cannot be, what needs one is left out; in CI it fails."""
    if os.geteuid() == 0 or os.environ.get("CI"):
        return
    for item in items:
        if LAB_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.skip(reason="a lab of libvirt nodes is for root to make"))
