"""Worker, site agents and libvirt daemons killed at random steps of failovers: every run ends right.

And an agent that is stopped with a command in hand, and goes on when others have long carried it out.

    python tests/end_to_end/vms/test_kill_anything.py --runs 10
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vms_failovers import ENDED_WELL, Loss, Moved, fail_over_as_planned, lose_and_fail_over, planned_kind
from vms_hands import Hands, new_run_id, told
from vms_installation import AGENTS, DR, PRIMARY, SECOND_PORT, VM
from vms_long import repeat

from failover_orch.contract import partition_of
from failover_orch.demo.vms.virsh import command
from failover_orch.domain import WORKFLOWS, FailoverKind, RunSnapshot, RunState
from failover_orch.wire import now_ms

ZOMBIE = "agent-second"
METADATA_URI = "urn:failover-orch:vm:1"
LONGEST_AWAY_S = 3.0
WORKER, AGENT, DAEMON = "worker", "agent", "libvirtd"


@dataclass(frozen=True, slots=True)
class Kill:
    """What is killed at which step: the worker, or a site's agent or libvirtd."""

    what: str
    step: str
    site: str = ""

    def __str__(self) -> str:
        return f"{self.what}{self.site and f' of {self.site}'} at {self.step}"


async def test_a_planned_failover_whose_worker_agent_and_libvirtd_are_killed_ends_right(hands: Hands) -> None:
    await killed(hands, random.Random(), planned=True)


async def test_an_unplanned_failover_whose_worker_agent_and_libvirtd_are_killed_ends_right(hands: Hands) -> None:
    await killed(hands, random.Random(), planned=False)


async def test_an_agent_that_goes_on_with_an_old_command_changes_nothing(hands: Hands) -> None:
    await overtaken(hands, random.Random())


async def killed(hands: Hands, chance: random.Random, *, planned: bool) -> str:
    """Kill worker, an agent and a libvirtd, each at a random step of a failover; have them back, and judge."""
    source, target = await hands.settled()
    kind = planned_kind(target) if planned else FailoverKind.UNPLANNED
    kills = _kills(chance, kind, source, target)
    what = f"{kind.lower()} from {source}, killed {', '.join(map(str, kills))}"
    run_id, asked_s = new_run_id(kind), time.monotonic()
    striking = [asyncio.create_task(_strike(hands, chance, run_id, kill)) for kill in kills]
    try:
        moved = await (fail_over_as_planned if planned else lose_and_fail_over)(hands, run_id)
        await asyncio.gather(*striking)
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from error
    finally:
        for each in striking:
            each.cancel()
    started = Counter(life.node for life in hands.oracle.lives(VM, since_s=asked_s))
    assert max(started.values(), default=0) <= 1, f"{what}: started more than once, {started}"
    run = moved if isinstance(moved, RunSnapshot) else moved.run
    ends_at = target if run.state in ENDED_WELL else source
    await hands.until(f"it runs at {ends_at}", lambda: hands.oracle.runs_on(VM) == [hands.node(ends_at).name])
    if isinstance(moved, Moved | Loss):
        assert not moved.wrong, f"{what}: {moved.wrong}: {moved}"
        return f"{what}: {run.state}, {moved}"
    return f"{what}: {told(run)}"


def _kills(chance: random.Random, kind: FailoverKind, source: str, target: str) -> tuple[Kill, ...]:
    steps = [step.number for step in WORKFLOWS[kind].steps if step.action is not None]
    # Where the source has lost its power there is nothing left to kill.
    sites = (target,) if kind is FailoverKind.UNPLANNED else (source, target)
    return (
        Kill(WORKER, chance.choice(steps)),
        Kill(AGENT, chance.choice(steps), chance.choice(sites)),
        Kill(DAEMON, chance.choice(steps), chance.choice(sites)),
    )


async def _strike(hands: Hands, chance: random.Random, run_id: str, kill: Kill) -> None:
    """Wait for the step, kill, and start again a while later."""
    await hands.until(f"{run_id} is at {kill.step}", lambda: hands.is_at(run_id, kill.step))
    # At any moment of the step, and away for as long as a supervisor may take: nothing is waited for here.
    await asyncio.sleep(chance.uniform(0, 0.5))
    if kill.what == DAEMON:
        node = hands.node(kill.site).name
        await asyncio.to_thread(hands.lab.kill_daemon, node)
        await asyncio.sleep(chance.uniform(0, LONGEST_AWAY_S))
        await asyncio.to_thread(hands.lab.start_daemon, node)
        return
    name = WORKER if kill.what == WORKER else AGENTS[kill.site]
    await asyncio.to_thread(hands.installation.kill, name)
    await asyncio.sleep(chance.uniform(0, LONGEST_AWAY_S))
    hands.installation.start_again(name)


# An agent that was overtaken


async def overtaken(hands: Hands, chance: random.Random) -> str:
    """Stop an agent with a start in hand; another one starts the VM, which then goes back; let the first go on."""
    source, target = await hands.settled()
    await _second_agent_first(hands, target)
    try:
        run_id = await hands.ask(planned_kind(target))
        step = next(step.number for step in WORKFLOWS[planned_kind(target)].steps if step.action == "START")
        await hands.until(f"{run_id} is at {step}", lambda: hands.is_at(run_id, step))
        await asyncio.sleep(chance.uniform(0, 0.3))
        hands.installation.pause(ZOMBIE)
        answered = [event for event in _said(hands, ZOMBIE, "step answered") if event["run.id"] == run_id]
        run = await hands.ended(run_id)
        assert run.state in ENDED_WELL, told(run)
        back = await hands.ended(await _back(hands, source))
        assert back.state is RunState.SUCCEEDED, told(back)
        await hands.until("it runs where it was", lambda: hands.oracle.runs_on(VM) == [hands.node(source).name])
        resumed_s, resumed_ms, ends = time.monotonic(), now_ms(), await _ends(hands)
        assigned = len(_said(hands, ZOMBIE, "partitions assigned"))
        hands.installation.resume(ZOMBIE)
        await hands.until(
            "it is back in its group", lambda: len(_said(hands, ZOMBIE, "partitions assigned")) > assigned
        )
        await hands.until("a cycle comes", lambda: hands.received(target, resumed_ms))
        assert hands.oracle.lives(VM, since_s=resumed_s) == []
        assert hands.oracle.runs_on(VM) == [hands.node(source).name], hands.stands()
        assert await _ends(hands) == ends
    finally:
        await asyncio.to_thread(hands.installation.forget, ZOMBIE)
    in_hand = "with the answer given" if any(event["step"] == step for event in answered) else "in hand"
    return f"an agent of {target} stopped with {step} {in_hand}, and resumed after the VM was back: nothing changed"


async def _back(hands: Hands, to: str) -> str:
    """Ask for the way back, once it would be taken."""
    since_ms = now_ms()
    await hands.until("it replicates the other way", lambda: hands.fit(since_ms))
    return await hands.ask(planned_kind(to))


async def _second_agent_first(hands: Hands, site: str) -> None:
    """Start a second agent of a site that has the commands of the VM, while the first still takes its replication."""
    installation = hands.installation
    installation.start_agent(site, name=ZOMBIE, port=SECOND_PORT)
    partition = partition_of(VM.encode(), installation.settings.partitions)

    def has(name: str) -> bool:
        said = _said(hands, name, "partitions assigned")
        return bool(said) and partition in said[-1]["partitions"] and len(said[-1]["partitions"]) == 1

    names = (ZOMBIE, AGENTS[site])
    await hands.until("the two agents share the partitions", lambda: any(map(has, names)))
    if not has(ZOMBIE):
        # Partitions go by the agents' names, in which the pid is: the later one of two has the later partitions.
        await asyncio.to_thread(installation.kill, AGENTS[site])
        installation.start_again(AGENTS[site])
        await hands.until("the second agent has the VM", lambda: has(ZOMBIE) and not has(AGENTS[site]))


def _said(hands: Hands, name: str, event: str) -> list[dict[str, Any]]:
    """What an agent has logged of that kind."""
    lines = hands.installation.log(name).read_text(errors="replace").splitlines()
    return [json.loads(line)["fields"] for line in lines if f'"{event}"' in line]


async def _ends(hands: Hands) -> Mapping[str, str]:
    """The epochs that both ends have accepted, with their modes and states, as the domains' metadata say."""
    asked = ("metadata", VM, METADATA_URI)
    texts = {
        site: await asyncio.to_thread(command, "virsh", "--quiet", "--connect", hands.node(site).uri, *asked)
        for site in (PRIMARY, DR)
    }
    return {site: text.partition("\n")[0].partition(">")[0] for site, text in texts.items()}


# The long form


async def _scene(hands: Hands, chance: random.Random, number: int) -> str:
    line = await killed(hands, chance, planned=number % 2 == 0)
    return f"{line}; {await overtaken(hands, chance)}" if number % 5 == 4 else line


def _summary(lines: Sequence[str]) -> str:
    return f"{len(lines)} runs of which worker, agent and libvirtd were killed ended right, no VM was started twice"


if __name__ == "__main__":
    sys.exit(repeat(__doc__, _scene, runs=10, summary=_summary))
