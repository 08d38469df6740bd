"""What goes wrong between the driver and a host ends in the right error, and asking again is safe."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hyperv import Effect, Fault
from hyperv_sites import Sites, sites_of

from contract import PLANNED
from failover_orch.domain.records import Action
from failover_orch.errors import HypervisorError, StepFailed, StepRefused
from failover_orch.hypervisors.hyperv import HyperVHypervisor
from worlds import DR_ADDRESSES, command

IMPATIENT: dict[str, Any] = {"call_timeout_s": 3.0, "long_call_timeout_s": 3.0}
"""What is silent is waited for that long; what answers must not take longer on a machine that is busy."""

CMDLETS = {
    Action.STAGE_ADDRESSES: "Set-VMNetworkAdapterFailoverConfiguration",
    Action.SHUT_DOWN: "Stop-VM",
    Action.PREPARE: "Start-VMFailover",
    Action.FAIL_OVER: "Start-VMFailover",
    Action.REVERSE: "Set-VMReplication",
    Action.CONNECT_ADAPTERS: "Connect-VMNetworkAdapter",
    Action.START: "Start-VM",
}
"""The cmdlet by which each action takes effect."""


@pytest.fixture
async def sites() -> AsyncIterator[Sites]:
    async with sites_of(**IMPATIENT) as both:
        yield both


@pytest.mark.parametrize("fault", [Fault.SHELL_GONE, Fault.UNAUTHORIZED, Fault.LATE])
async def test_a_session_that_is_gone_is_opened_anew(sites: Sites, fault: Fault) -> None:
    effect = Effect.DONE if fault is Fault.LATE else Effect.NONE
    sites.stand_in.fail_next("Start-VMFailover", fault, effect=effect)
    found = await sites.do(Action.FAIL_OVER)
    assert found["state"] == "FailOverWaitingCompletion"
    assert sites.effects("Start-VMFailover") == 1


@pytest.mark.parametrize(
    ("fault", "effect", "error", "sentence"),
    [
        (Fault.OPERATION_TIMEOUT, Effect.NONE, StepFailed, "d1 was lost while it ran Start-VMFailover"),
        (Fault.CUT, Effect.NONE, StepFailed, "d1 was lost while it ran Start-VMFailover"),
        (Fault.CUT, Effect.DONE, StepFailed, "d1 was lost while it ran Start-VMFailover"),
        (Fault.HANG, Effect.NONE, StepFailed, "d1 did not end Start-VMFailover in time, and was told to stop it"),
        (Fault.HANG, Effect.DONE, StepFailed, "d1 did not end Start-VMFailover in time, and was told to stop it"),
        (Fault.TERMINATING, Effect.NONE, StepFailed, "d1 says to Start-VMFailover: "),
        (Fault.NON_TERMINATING, Effect.NONE, StepFailed, "d1 says to Start-VMFailover: "),
        (Fault.NON_TERMINATING, Effect.DONE, StepFailed, "d1 says to Start-VMFailover: "),
    ],
)
@pytest.mark.parametrize("attempt", [1, 2], ids=["delivered-again", "tried-again"])
async def test_what_went_wrong_is_said_and_asked_for_again_is_done_once(
    sites: Sites, fault: Fault, effect: Effect, error: type[HypervisorError], sentence: str, attempt: int
) -> None:
    sites.stand_in.fail_next("Start-VMFailover", fault, effect=effect)
    with pytest.raises(error, match=sentence):
        await sites.do(Action.FAIL_OVER)
    found = await sites.do(Action.FAIL_OVER, attempt=attempt)
    assert found["state"] == "FailOverWaitingCompletion"
    assert sites.effects("Start-VMFailover") == 1
    # And nothing of it comes back once it has been undone.
    await sites.do(Action.CANCEL_FAILOVER)
    for again in {1, attempt}:
        assert (await sites.do(Action.FAIL_OVER, attempt=again))["state"] == "Replicating"


@pytest.mark.parametrize("effect", [Effect.NONE, Effect.DONE], ids=["nothing-done", "answer-lost"])
async def test_a_planned_failover_comes_through_a_lost_answer_at_every_step(sites: Sites, effect: Effect) -> None:
    for action, site in PLANNED:
        cmdlet = CMDLETS.get(action)
        if cmdlet is not None:
            before = sites.effects(cmdlet)
            sites.stand_in.fail_next(cmdlet, Fault.CUT, effect=effect)
            with pytest.raises(StepFailed, match=f"was lost while it ran {cmdlet}"):
                await sites.do(action, site)
        found = await sites.do(action, site, attempt=2)
        if cmdlet is not None:
            assert sites.effects(cmdlet) == before + 1
    assert (found["mode"], found["state"], found["power"]) == ("Primary", "Replicating", "RUNNING")
    assert not sites.stand_in.ran_twice


async def test_a_command_that_cannot_be_recorded_is_not_carried_out(sites: Sites) -> None:
    sites.stand_in.fail_next("Set-VM", Fault.CUT)
    with pytest.raises(StepFailed, match="was lost while it ran Set-VM"):
        await sites.do(Action.FAIL_OVER)
    assert sites.effects("Start-VMFailover") == 0
    assert (await sites.do(Action.FAIL_OVER))["state"] == "FailOverWaitingCompletion"


async def test_staging_that_was_done_by_half_is_completed(sites: Sites) -> None:
    sites.stand_in.fail_next("Set-VMNetworkAdapterFailoverConfiguration", Fault.CUT, effect=Effect.HALF)
    with pytest.raises(StepFailed):
        await sites.do(Action.STAGE_ADDRESSES)
    await sites.do(Action.STAGE_ADDRESSES)
    for action, site in PLANNED[1:]:
        found = await sites.do(action, site)
    assert found["addresses/nic-1"] == "10.50.0.21/24, fd50::21/64"


async def test_a_shutdown_that_is_under_way_is_waited_for(sites: Sites) -> None:
    sites.stand_in.fail_next("Stop-VM", Fault.CUT, effect=Effect.HALF)
    with pytest.raises(StepFailed):
        await sites.do(Action.SHUT_DOWN, "primary")
    assert (await sites.do(Action.INSPECT, "primary"))["power"] == "RUNNING"
    sites.stand_in.settle("vm-1", "primary")
    assert (await sites.do(Action.SHUT_DOWN, "primary"))["power"] == "OFF"


async def test_a_reversal_done_by_half_is_refused_with_what_is_to_be_done(sites: Sites) -> None:
    for action, site in PLANNED[:4]:
        await sites.do(action, site)
    sites.stand_in.fail_next("Set-VMReplication", Fault.CUT, effect=Effect.HALF)
    with pytest.raises(StepFailed):
        await sites.do(Action.REVERSE)
    with pytest.raises(StepRefused, match="complete the failover, make that end a replica, and reverse then"):
        await sites.do(Action.REVERSE, attempt=2)


async def test_a_test_copy_whose_making_broke_off_is_finished(sites: Sites) -> None:
    other = (replace(DR_ADDRESSES[0], ipv6=None),)
    await sites.do(Action.STAGE_ADDRESSES, addresses=other)
    sites.stand_in.fail_next("Start-VMFailover", Fault.CUT, effect=Effect.HALF)
    with pytest.raises(StepFailed):
        await sites.do(Action.CREATE_TEST)
    found = await sites.do(Action.CREATE_TEST)
    assert (found["connected/nic-1"], found["test/power"]) == ("yes", "OFF")
    assert (await sites.do(Action.START_TEST))["addresses/nic-1"] == "10.50.0.21/24, fd50::21/64"
    # The replica has its own addresses back.
    before = sites.effects("Set-VMNetworkAdapterFailoverConfiguration")
    await sites.do(Action.STAGE_ADDRESSES, attempt=2, addresses=other)
    assert sites.effects("Set-VMNetworkAdapterFailoverConfiguration") == before


async def test_a_silent_node_holds_nobody_up_for_long(sites: Sites) -> None:
    sites.stand_in.fail_next("Get-VM", Fault.HANG, node="d1")
    with pytest.raises(StepFailed, match="vm-1 is on no node of dr that answers, and d1 does not"):
        await sites.do(Action.INSPECT)
    assert (await sites.do(Action.INSPECT))["node"] == "d1"


async def test_a_wrong_password_is_refused_with_a_sentence(sites: Sites) -> None:
    assert (await sites.dr.observe("vm-1"))["node"] == "d1"
    sites.stand_in.change_password("another")
    sites.stand_in.close_shells("d1")
    with pytest.raises(StepFailed, match="d1 does not accept failover by basic: check name, password"):
        await sites.do(Action.INSPECT)


async def test_hosts_that_are_away_are_said_to_be(sites: Sites) -> None:
    sites.stand_in.power_off("dr")
    with pytest.raises(StepFailed, match=r"d1 does not: d1 cannot be reached at 127\.0\.0\.1:\d+: "):
        await sites.do(Action.INSPECT)
    assert await sites.dr.observe("vm-1") == {}
    with pytest.raises(StepFailed, match="no node of dr answers"):
        await sites.dr.clusters()
    with pytest.raises(StepFailed, match="no node of dr answers"):
        await sites.dr.vms()
    assert await sites.dr.reports(["vm-1"]) == ()
    sites.stand_in.power_on("dr")
    assert (await sites.do(Action.INSPECT))["node"] == "d1"


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"ca_file": None}, "its certificate is not trusted: "),
        ({"port": 1}, "Connection refused"),
        ({"host": "no.such.host.invalid"}, "d1 cannot be reached at no.such.host.invalid:"),
    ],
)
async def test_why_a_host_cannot_be_reached_is_said_in_a_few_words(
    sites: Sites, fields: dict[str, Any], what: str
) -> None:
    site = sites.dr._settings
    unreachable = replace(site, nodes=(replace(site.nodes[0], **fields), site.nodes[1]))
    async with HyperVHypervisor(unreachable, clock=sites.stand_in.clock) as dr:
        with pytest.raises(StepFailed, match=what) as failed:
            await dr.perform(command(Action.INSPECT))
    assert len(str(failed.value)) < 250
