"""Which guests can be given addresses at a failover: their system, and their integration services.

The addresses are staged in the VM's configuration and applied by a component inside the running guest (Hyper-V's
key-value exchange, or a guest agent), so the guest's system must have that component and it must be running. Without
it the VM comes up with the primary's addresses and nobody is told.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from failover_orch.domain.inventory import Guest, IntegrationServices

__all__ = ["SUPPORTED_GUESTS", "GuestSupport", "supported"]

SUPPORTED_GUESTS: Mapping[str, str] = MappingProxyType(
    {
        "windows-xp-sp2": "Windows XP SP2",
        "windows-xp-sp3": "Windows XP SP3",
        "windows-vista-sp2": "Windows Vista SP2",
        "windows-7": "Windows 7",
        "windows-8": "Windows 8",
        "windows-8.1": "Windows 8.1",
        "windows-10": "Windows 10",
        "windows-11": "Windows 11",
        "windows-server-2003-sp2": "Windows Server 2003 SP2",
        "windows-server-2003-r2-sp2": "Windows Server 2003 R2 SP2",
        "windows-server-2008": "Windows Server 2008",
        "windows-server-2008-r2": "Windows Server 2008 R2",
        "windows-server-2012": "Windows Server 2012",
        "windows-server-2012-r2": "Windows Server 2012 R2",
        "windows-server-2016": "Windows Server 2016",
        "windows-server-2019": "Windows Server 2019",
        "windows-server-2022": "Windows Server 2022",
        "windows-server-2025": "Windows Server 2025",
        "almalinux-8": "AlmaLinux 8",
        "almalinux-9": "AlmaLinux 9",
        "almalinux-10": "AlmaLinux 10",
        "centos-stream-9": "CentOS Stream 9",
        "centos-stream-10": "CentOS Stream 10",
        "debian-11": "Debian 11 (bullseye)",
        "debian-12": "Debian 12 (bookworm)",
        "debian-13": "Debian 13 (trixie)",
        "opensuse-leap-15": "openSUSE Leap 15",
        "opensuse-leap-16": "openSUSE Leap 16",
        "oracle-linux-8": "Oracle Linux 8",
        "oracle-linux-9": "Oracle Linux 9",
        "oracle-linux-10": "Oracle Linux 10",
        "rhel-7": "Red Hat Enterprise Linux 7",
        "rhel-8": "Red Hat Enterprise Linux 8",
        "rhel-9": "Red Hat Enterprise Linux 9",
        "rhel-10": "Red Hat Enterprise Linux 10",
        "rocky-8": "Rocky Linux 8",
        "rocky-9": "Rocky Linux 9",
        "rocky-10": "Rocky Linux 10",
        "sles-12": "SUSE Linux Enterprise Server 12",
        "sles-15": "SUSE Linux Enterprise Server 15",
        "sles-16": "SUSE Linux Enterprise Server 16",
        "ubuntu-20.04": "Ubuntu 20.04 LTS",
        "ubuntu-22.04": "Ubuntu 22.04 LTS",
        "ubuntu-24.04": "Ubuntu 24.04 LTS",
        "ubuntu-26.04": "Ubuntu 26.04 LTS",
        "linux-hv-daemons": "any Linux with the kernel's Hyper-V daemons (hv_kvp_daemon)",
        "linux-guest-agent": "any Linux with the QEMU guest agent",
    }
)
"""Identifier to name of every system supported without further ado. A cluster's `supported_guests` adds to it."""

_SERVICES: Mapping[IntegrationServices, str] = MappingProxyType(
    {
        IntegrationServices.RUNNING: "",
        IntegrationServices.OUTDATED: "the guest's integration services are outdated; update them",
        IntegrationServices.ABSENT: "the guest has no integration services running; install and start them",
        IntegrationServices.UNKNOWN: (
            "the state of the guest's integration services is not known; have the primary site report it"
        ),
    }
)


@dataclass(frozen=True, slots=True)
class GuestSupport:
    """Whether a guest can be given failover addresses. Each reason is a clause without a full stop; empty: it can."""

    system_reason: str
    services_reason: str

    @property
    def ok(self) -> bool:
        return not self.system_reason and not self.services_reason


def supported(guest: Guest, extra: Collection[str] = ()) -> GuestSupport:
    """Judge a guest by the built-in list and `extra`, the identifiers that the receiving cluster adds to it.

    Identifiers are compared without regard to case.
    """
    system = guest.system.strip().lower()
    known = system in SUPPORTED_GUESTS or system in {identifier.strip().lower() for identifier in extra}
    reason = (
        ""
        if known
        else f"the guest's system {guest.system!r} is not on the supported list; "
        "add it to supported_guests of the receiving cluster if its guests can take addresses"
    )
    return GuestSupport(reason, _SERVICES[guest.integration_services])
