"""One installation of real VMs for all tests of this directory: see `vms_fixtures`."""

from vms_fixtures import hands, installation, shared

__all__ = ["hands", "installation", "shared"]
