"""The nodes of a site, looked at side by side: which VMs are where, and who does not answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from failover_orch.errors import HypervisorError, StepFailed, StepRefused
from failover_orch.hypervisors.hyperv.ends import called
from failover_orch.hypervisors.hyperv.host import Host
from failover_orch.hypervisors.hyperv.seen import Machine, machines
from failover_orch.hypervisors.hyperv.settings import VmNaming
from failover_orch.hypervisors.hyperv.threads import each

__all__ = ["Look", "find", "look_at"]

_COPY = " - Test"
"""What Hyper-V adds to the name of a VM's test copy."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the nodes of a site said. `silent`: for each node that did not answer, why."""

    site: str
    machines: tuple[Machine, ...]
    silent: Mapping[str, HypervisorError]

    def vm(self, vm_id: str, naming: VmNaming) -> Machine:
        """The VM, wherever it is.

        Raises:
            StepFailed: no node that answers has it, and some do not answer; or two have it.
            StepRefused: the site does not have it.

        """
        there = [
            machine
            for machine in self.machines
            if not machine.is_test_copy and called(machine, naming).lower() == vm_id.lower()
        ]
        if len(there) > 1:
            where = " and ".join(machine.host.name for machine in there)
            raise StepFailed(
                f"{vm_id} is on {where} at {self.site} at once: it is being moved, or one is not the VM and has "
                "to be removed"
            )
        if there:
            return there[0]
        if self.silent:
            node, error = next(iter(self.silent.items()))
            raise StepFailed(f"{vm_id} is on no node of {self.site} that answers, and {node} does not: {error}")
        raise StepRefused(f"{vm_id} is not known at {self.site}")

    def copy_of(self, machine: Machine) -> Machine | None:
        """The test copy of a VM, if there is one."""
        name = machine.name + _COPY
        return next((each for each in self.machines if each.is_test_copy and each.name == name), None)


def look_at(site: str, hosts: Sequence[Host]) -> Look:
    """Ask all nodes of a site what VMs they have."""

    def ask(host: Host) -> tuple[Machine, ...] | HypervisorError:
        try:
            return machines(host)
        except HypervisorError as error:
            return error

    answers = dict(zip(hosts, each(ask, hosts), strict=True))
    return Look(
        site,
        tuple(machine for answer in answers.values() if isinstance(answer, tuple) for machine in answer),
        {host.name: answer for host, answer in answers.items() if isinstance(answer, HypervisorError)},
    )


def find(site: str, hosts: Sequence[Host], vm_id: str, naming: VmNaming) -> tuple[Machine, Machine | None]:
    """A VM, wherever it is, and its test copy if there is one.

    Raises:
        StepFailed: no node that answers has it, and some do not answer; or two have it.
        StepRefused: the site does not have it.

    """
    look = look_at(site, hosts)
    try:
        machine = look.vm(vm_id, naming)
    except HypervisorError:
        if look.silent:
            raise
        # Nodes are asked one by one: a VM that is being moved may be seen on none of them, or on two.
        look = look_at(site, hosts)
        machine = look.vm(vm_id, naming)
    return machine, look.copy_of(machine)
