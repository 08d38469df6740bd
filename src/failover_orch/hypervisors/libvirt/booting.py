"""Starting a guest with the addresses that it is to have, whichever way they reach it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from failover_orch.domain.settings import AdapterAddresses
from failover_orch.errors import StepFailed, StepRefused
from failover_orch.hypervisors.libvirt.domain_xml import describe, without_injection
from failover_orch.hypervisors.libvirt.guest import Guest
from failover_orch.hypervisors.libvirt.in_guest import apply_in_guest
from failover_orch.hypervisors.libvirt.injection import prepared, remove_volume
from failover_orch.hypervisors.libvirt.nodes import Node
from failover_orch.hypervisors.libvirt.settings import Injection
from failover_orch.hypervisors.rules import EndAdapter

__all__ = ["Booting"]

_WITH_ADDRESSES_S = 120.0
"""How long a guest may take to boot that is to be given addresses through its agent."""
_BOOTED_S = 30.0
"""How long any other is waited for: that it does not come up is for the verification to find."""


class Booting:
    """Brings a site's failover addresses to guests that start."""

    def __init__(self, how: Injection) -> None:
        self._how = how

    async def before(
        self,
        node: Node,
        xml: str,
        plans: Sequence[AdapterAddresses],
        adapters: Sequence[EndAdapter],
        *,
        token: str,
    ) -> str:
        """The inactive XML to start with: with these addresses, and nothing older. `adapters`: as the guest has them.

        `token` tells this failover from others, and is the same whenever its start is tried again.

        Raises:
            StepFailed: what the guest is to read could not be put on the node.

        """
        known = {adapter.adapter_id: adapter.configured for adapter in adapters}
        return await prepared(node, xml, self._how, plans, token=token, known=known)

    async def after(self, guest: Guest, xml: str, plans: Sequence[AdapterAddresses]) -> None:
        """Once it runs: wait for the guest, and set the addresses in it where that is how they reach it.

        Raises:
            StepRefused: these addresses cannot be set in such a guest.
            StepFailed: its agent does not answer, or a command failed in it.

        """
        description = describe(xml)
        if plans and self._how is Injection.AGENT:
            await guest.await_agent(_WITH_ADDRESSES_S)
            await apply_in_guest(guest, description.adapters, plans)
        elif description.agent_channel:
            with suppress(StepFailed, StepRefused):
                await guest.await_agent(_BOOTED_S)

    async def undone(self, node: Node, xml: str) -> str:
        """The inactive XML with nothing injected, and nothing of what was left on the node: once it is off."""
        await remove_volume(node, xml)
        return without_injection(xml)
