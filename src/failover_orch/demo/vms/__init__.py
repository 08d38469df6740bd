"""The demo of real VMs: two sites of libvirt nodes, four tiny VMs and a local Kafka, told as it happens."""

from failover_orch.demo.vms.play import play

__all__ = ["play"]
