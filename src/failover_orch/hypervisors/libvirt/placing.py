"""Asking the replica broker for the place of a new replica, as somebody whom it knows."""

from __future__ import annotations

import ssl
from urllib.parse import quote

import httpx

from failover_orch.errors import StepFailed
from failover_orch.hypervisors.libvirt.settings import BrokerAccess

__all__ = ["ask_for_node"]

_ASK_S = 5.0


async def ask_for_node(url: str, access: BrokerAccess, vm_id: str, peer_site: str) -> str:
    """The node that a VM's replica is to go to.

    Raises:
        StepFailed: the broker does not answer, does not know us, or has no place for it.

    """
    placement = f"{url.rstrip('/')}/v1/vms/{quote(vm_id, safe='')}/placement"
    headers = {"Authorization": f"Bearer {access.token}"} if access.token else {}
    try:
        async with httpx.AsyncClient(verify=_verifying(access), trust_env=False, timeout=_ASK_S) as client:
            response = await client.get(placement, headers=headers)
            if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                raise StepFailed(
                    f"the broker does not let us ask for a place for {vm_id} ({placement}: {response.status_code}): "
                    "give hypervisor.broker_access a token or certificate of a site_agent of this site"
                )
            response.raise_for_status()
            node = response.json()["placement"]["node"]
    except (httpx.HTTPError, OSError, ValueError, KeyError, TypeError) as error:
        raise StepFailed(f"the broker cannot be asked for a place for {vm_id}: {placement}: {error}") from error
    if not node:
        raise StepFailed(f"the broker has no place for {vm_id} at {peer_site}: see {placement}")
    return str(node)


def _verifying(access: BrokerAccess) -> ssl.SSLContext:
    # Read each time: certificates are renewed under their names.
    context = ssl.create_default_context(cafile=access.ca)
    if access.certificate is not None:
        context.load_cert_chain(access.certificate, access.key)
    return context
