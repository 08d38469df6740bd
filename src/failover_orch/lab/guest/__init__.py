"""Tiny guests: a kernel, an initramfs with the real guest agent, disks, and their domains."""

from failover_orch.lab.guest.disks import make_configuration_drive, make_data_disk
from failover_orch.lab.guest.domain import GuestAdapter, domain_xml
from failover_orch.lab.guest.image import GuestImage, guest_image

__all__ = ["GuestAdapter", "GuestImage", "domain_xml", "guest_image", "make_configuration_drive", "make_data_disk"]
