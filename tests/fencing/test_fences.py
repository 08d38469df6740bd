"""The table of fence agents: which is asked for which node, and what a person's word counts beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from machines import P1

from failover_orch.errors import FenceFailed, FenceRefused, HypervisorError
from failover_orch.fencing import (
    Fences,
    IpmiFence,
    LibvirtFence,
    PersonFence,
    PowerReading,
    RedfishFence,
    Target,
    fence_agent,
)

PERSON = PersonFence("primary", "p1")


@dataclass
class Scripted:
    """An agent that does as the test says."""

    answer: str | HypervisorError
    reading: PowerReading | HypervisorError = PowerReading.UNKNOWN
    asked: list[Target] = field(default_factory=list)

    async def power(self, target: Target) -> PowerReading:
        if isinstance(self.reading, HypervisorError):
            raise self.reading
        return self.reading

    async def cut(self, target: Target) -> str:
        self.asked.append(target)
        if isinstance(self.answer, HypervisorError):
            raise self.answer
        return self.answer


def test_it_names_the_nodes_that_need_no_person() -> None:
    file = Path("secret")
    fences = Fences.of(
        [
            PersonFence("primary", "p3"),
            RedfishFence("primary", "p2", "https://bmc", "admin", file),
            PERSON,
            IpmiFence("primary", "p1", "10.0.0.9", "admin", file),
            LibvirtFence("west", "w1", "qemu+tcp://10.0.0.1/system"),
        ]
    )
    assert fences.fences == ("primary/p1", "primary/p2", "west/w1")


async def test_the_agents_of_a_node_are_tried_in_their_order() -> None:
    first, second, third = Scripted(FenceFailed("no answer")), Scripted("read OFF"), Scripted("never asked")
    fences = Fences({"primary/p1": (first, second, third), "primary/p2": (third,)})
    target = Target("primary", "p1", "erp-db")
    assert await fences.cut(target) == "read OFF"
    assert (first.asked, second.asked, third.asked) == ([target], [target], [])


async def test_power_is_what_the_first_one_says_that_knows() -> None:
    agents = [
        Scripted("", FenceRefused("wrong password")),
        Scripted("", PowerReading.UNKNOWN),
        Scripted("", PowerReading.OFF),
        Scripted("", PowerReading.ON),
    ]
    assert await Fences({"primary/p1": agents}).power(P1) is PowerReading.OFF
    assert await Fences({"primary/p1": agents[:2]}).power(P1) is PowerReading.UNKNOWN
    assert await Fences({}).power(P1) is PowerReading.UNKNOWN


async def test_a_node_without_an_agent_is_for_a_person() -> None:
    with pytest.raises(FenceRefused, match=r"^no fence agent is for primary/p1: a person has to attest it$"):
        await Fences({}).cut(P1)
    with pytest.raises(FenceRefused, match=r"for a person to cut: .*--primary-is-down"):
        await Fences.of([PERSON]).cut(P1)
    assert await fence_agent(PERSON).power(P1) is PowerReading.UNKNOWN


async def test_it_failed_if_trying_again_may_help() -> None:
    failed, refused = Scripted(FenceFailed("no answer")), Scripted(FenceRefused("wrong password"))
    for agents in ((failed, refused), (refused, failed)):
        with pytest.raises(FenceFailed, match=r"(no answer|wrong password); "):
            await Fences({"primary/p1": agents}).cut(P1)
    with pytest.raises(FenceRefused, match=r"^wrong password; wrong password$"):
        await Fences({"primary/p1": (refused, refused)}).cut(P1)


async def test_an_attestation_opens_what_nobody_can_read() -> None:
    for fences in (Fences({}), Fences.of([PERSON]), Fences({"primary/p1": (Scripted(FenceFailed("no answer")),)})):
        said = await fences.cut(P1, attested=True)
        assert said.startswith("attested: a person says that primary/p1 is off, and its power cannot be read (")


async def test_what_was_seen_on_outweighs_an_attestation() -> None:
    fences = Fences({"primary/p1": (Scripted(FenceFailed("stays ON", seen_on=True)), fence_agent(PERSON))})
    with pytest.raises(FenceFailed, match=r"^stays ON; ") as raised:
        await fences.cut(P1, attested=True)
    assert raised.value.seen_on


async def test_power_is_cut_even_if_a_person_says_that_it_is_off() -> None:
    agent = Scripted("read OFF")
    assert await Fences({"primary/p1": (agent,)}).cut(P1, attested=True) == "read OFF"
    assert agent.asked == [P1]
