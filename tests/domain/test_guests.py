"""The supported list for failover TCP/IP."""

from __future__ import annotations

import re

import pytest

from failover_orch.domain.guests import SUPPORTED_GUESTS, supported
from failover_orch.domain.inventory import Guest, IntegrationServices


@pytest.mark.parametrize(
    "system",
    [
        # Named by Microsoft for the first release of Hyper-V Replica
        "windows-server-2012",
        "windows-server-2008-r2",
        "windows-server-2008",
        "windows-server-2003-sp2",
        "windows-7",
        "windows-vista-sp2",
        "windows-xp-sp2",
        # Current
        "windows-server-2025",
        "windows-11",
        "debian-13",
        "ubuntu-24.04",
        "rhel-10",
        "rocky-9",
        "sles-15",
        "linux-hv-daemons",
    ],
)
def test_a_listed_system_with_running_services_is_supported(system: str) -> None:
    assert supported(Guest(system, IntegrationServices.RUNNING)).ok


@pytest.mark.parametrize("system", ["windows-server-2003-sp1", "windows-xp-sp1", "solaris-11", ""])
def test_a_system_that_is_not_listed_is_named_in_the_reason(system: str) -> None:
    support = supported(Guest(system, IntegrationServices.RUNNING))
    assert not support.ok
    assert repr(system) in support.system_reason
    assert support.services_reason == ""


def test_a_cluster_adds_to_the_list() -> None:
    guest = Guest("freebsd-14", IntegrationServices.RUNNING)
    assert not supported(guest).ok
    assert supported(guest, ["FreeBSD-14"]).ok


def test_case_does_not_matter() -> None:
    assert supported(Guest("Windows-Server-2022", IntegrationServices.RUNNING)).ok


@pytest.mark.parametrize(
    ("services", "word"),
    [
        (IntegrationServices.OUTDATED, "outdated"),
        (IntegrationServices.ABSENT, "no integration services"),
        (IntegrationServices.UNKNOWN, "not known"),
    ],
)
def test_services_that_do_not_run_are_a_reason_each(services: IntegrationServices, word: str) -> None:
    support = supported(Guest("debian-12", services))
    assert not support.ok
    assert support.system_reason == ""
    assert word in support.services_reason


def test_identifiers_are_lower_case_and_plain() -> None:
    assert all(re.fullmatch(r"[a-z][a-z0-9.-]*", identifier) for identifier in SUPPORTED_GUESTS)
