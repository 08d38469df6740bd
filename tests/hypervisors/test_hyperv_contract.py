"""The Hyper-V driver keeps the contract, over HTTPS, on hosts that stand in for Hyper-V's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import ParamSpec

import pytest
from hyperv_sites import SITES, Sites, at_the_console, sites_of

from contract import PLANNED, REPROTECT, UNPLANNED, HypervisorContract, Pair
from failover_orch.domain.records import Action
from failover_orch.domain.replication_settings import (
    AcceptedAuthentication,
    AuthorizationEntry,
    InitialReplication,
    NodePort,
    ReplicationServer,
    VmReplication,
)

SERVER = ReplicationServer(
    enabled=True,
    http_port=8080,
    http_port_map=(NodePort("d1.dr.example", 81), NodePort("d2.dr.example", 82), NodePort("dr-broker.dr.example", 80)),
    authorization=(AuthorizationEntry("primary-broker.primary.example", "C:\\ClusterStorage\\dr", "stand-in"),),
)
NOT_TAKEN_OF_VMS = {
    "excluded_disks": VmReplication(excluded_disks=("d.vhdx",)),
    "initial_replication": VmReplication(initial_replication=InitialReplication.EXPORT),
    "initial_start_at_ms": VmReplication(initial_start_at_ms=1),
    "extended_to": VmReplication(extended_to="far-cluster"),
    "extended_frequency_s": VmReplication(extended_frequency_s=900),
}
_Arguments = ParamSpec("_Arguments")


class TestHyperV(HypervisorContract):
    @pytest.fixture
    async def pair(self) -> AsyncIterator[Pair]:
        async with sites_of() as sites:
            hosts = sites.stand_in

            async def migrate(node: str) -> None:
                hypervisor = sites.dr if node in SITES["dr"] else sites.primary
                # The driver hears of no move: it sees where VMs are. So it has to have looked before, and after.
                await asyncio.to_thread(hypervisor._watching.untold, announce=False)
                hosts.migrate("vm-1", node)
                await asyncio.to_thread(hypervisor._watching.untold, announce=False)

            yield Pair(
                sites.primary,
                sites.dr,
                power_off_primary=_hand(lambda: hosts.power_off("primary")),
                power_on_primary=_hand(lambda: hosts.power_on("primary")),
                cut_link=_hand(hosts.cut_link),
                restore_link=_hand(hosts.restore_link),
                migrate=migrate,
                replicate=_hand(hosts.replicate),
                at_the_console=_hand(lambda node, server: at_the_console(hosts, node, server)),
                server=SERVER,
                not_taken={
                    "DefaultStorageLocation": replace(SERVER, from_any_server=True, authorization=()),
                    "CertificateThumbprint": replace(SERVER, authentication=AcceptedAuthentication.BOTH),
                },
                not_taken_of_vms=NOT_TAKEN_OF_VMS,
            )


def _hand(do: Callable[_Arguments, object]) -> Callable[_Arguments, Coroutine[None, None, None]]:
    async def done(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> None:
        await asyncio.to_thread(do, *arguments, **named)

    return done


@pytest.fixture
async def negotiated() -> AsyncIterator[Sites]:
    async with sites_of(auth="negotiate") as sites:
        yield sites


async def test_a_planned_failover_over_http_with_encrypted_messages(negotiated: Sites) -> None:
    for action, site in PLANNED:
        found = await negotiated.do(action, site)
    assert (found["mode"], found["state"], found["power"]) == ("Primary", "Replicating", "RUNNING")
    assert found["addresses/nic-1"] == "10.50.0.21/24, fd50::21/64"


async def test_there_and_back_over_http_with_encrypted_messages(negotiated: Sites) -> None:
    hosts = negotiated.stand_in
    hosts.power_off("primary")
    for action, site in UNPLANNED:
        await negotiated.do(action, site, attested=True)
    hosts.power_on("primary")
    for action, site in REPROTECT:
        await negotiated.do(action, site)
    hosts.replicate()
    assert (await negotiated.do(Action.AWAIT_REPLICATION))["state"] == "Replicating"
    back = {"primary": "dr", "dr": "primary"}
    for action, site in PLANNED[1:-1]:
        found = await negotiated.do(action, back[site], run_id="run-2", epoch=9)
    assert (found["node"], found["power"], found["mode"]) == ("p1", "RUNNING", "Primary")
    assert not hosts.ran_twice
