"""Scripts and calls are begun once, whatever happens to agents: on a real Kafka."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from scripts_for_tests import now, running_script, soon, write_script
from test_site_agent import CODEC, OPTIONS, PATIENCE_S, make_agent, publish, results, running, until

from failover_orch.config import Settings
from failover_orch.contract import Names
from failover_orch.domain.facts import StepOutcome, StepResult
from failover_orch.domain.records import StepCommand
from failover_orch.kafka import LocalKafka
from failover_orch.site.answers import answer
from failover_orch.site.claims import Claims
from failover_orch.site.ledger import CLAIM, CLAIMED_BY
from worlds import make_world

DONE, FAILED, UNCERTAIN, BEGUN = StepOutcome.DONE, StepOutcome.FAILED, StepOutcome.UNCERTAIN, StepOutcome.BEGUN


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a world, and with scripts that write a line each time they are run.

    `quick` ends, `slow` waits for a file `go`, `failing` ends with status 1.
    """
    make_world(tmp_path / "world.db")
    line = f'echo "$FAILOVER_ORCH_STEP $FAILOVER_ORCH_ATTEMPT" >> {tmp_path}/lines'
    write_script(tmp_path / "scripts", "quick", line)
    write_script(tmp_path / "scripts", "failing", f"{line}; exit 1")
    write_script(tmp_path / "scripts", "slow", f"{line}; until test -e {tmp_path}/go; do sleep 0.02; done; echo slow")
    return tmp_path


def options_for(place: Path) -> Any:
    return replace(OPTIONS, scripts=(place / "scripts",), grace=1.0, evidence_every=0)


def lines(place: Path) -> list[str]:
    path = place / "lines"
    return path.read_text().splitlines() if path.exists() else []


async def until_lines(place: Path, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(lines(place)) < count:  # noqa: ASYNC110 (another process writes them)
            await asyncio.sleep(0.02)


async def outcomes(settings: Settings, count: int) -> list[StepOutcome]:
    return [result.outcome for result in await results(settings, count)]


def _agent_process(settings: Settings, place: str) -> None:
    agent = make_agent(settings, Path(place) / "world.db", options=options_for(Path(place)))
    asyncio.run(agent.run())


async def test_it_is_told_begun_before_and_how_it_ended_after(settings: Settings, place: Path) -> None:
    asked = running_script("slow")
    async with running(make_agent(settings, place / "world.db", options=options_for(place))):
        await publish(settings, asked)
        (begun,) = await results(settings, 1)
        (place / "go").touch()
        _, end = await results(settings, 2)
    assert (begun.outcome, begun.key, begun.run_id, begun.step, begun.attempt) == (
        BEGUN,
        "plan-1",
        asked.run_id,
        asked.step,
        1,
    )
    assert (end.outcome, end.key, end.observed["output"]) == (DONE, "plan-1", "slow")
    assert begun.detail == f"begun by site agent {begun.observed[CLAIMED_BY]}"


async def test_what_comes_again_is_answered_as_before(settings: Settings, place: Path) -> None:
    """In the life of one agent, and of the next; another attempt is another matter."""
    asked = [running_script("quick", step="1"), running_script("failing", step="2")]
    async with running(make_agent(settings, place / "world.db", options=options_for(place))):
        await publish(settings, *asked)
        first = await results(settings, 4)
        await publish(settings, *asked)
        again = (await results(settings, 6))[4:]
    async with running(make_agent(settings, place / "world.db", options=options_for(place))):
        await publish(settings, *asked)
        once_more = (await results(settings, 8))[6:]
        await publish(settings, replace(asked[1], attempt=2))
        assert [one.outcome for one in (await results(settings, 10))[8:]] == [BEGUN, FAILED]
    ends = sorted((one for one in first if one.outcome is not BEGUN), key=_step)
    assert [one.outcome for one in ends] == [DONE, FAILED]
    assert sorted(again, key=_step) == sorted(once_more, key=_step) == ends
    assert sorted(lines(place)) == ["1 1", "2 1", "2 2"]


def _step(result: StepResult) -> str:
    return result.step


async def test_killed_in_the_middle_of_a_script(settings: Settings, place: Path) -> None:
    """Two agents of the site; the one that has the script is killed, and the other does not run it again."""
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_agent_process, args=(settings, str(place))) for _ in range(2)]
    for process in processes:
        process.start()
    try:
        await publish(settings, running_script("slow"))
        await until_lines(place, 1)
        (begun,) = await results(settings, 1)
        killed = next(process for process in processes if f"-{process.pid}-" in begun.observed[CLAIMED_BY])
        assert killed.pid is not None
        os.kill(killed.pid, signal.SIGKILL)
        _, result = await results(settings, 2)
        # Asked again, it still is not done again.
        await publish(settings, running_script("slow"))
        assert await outcomes(settings, 3) == [BEGUN, UNCERTAIN, UNCERTAIN]
    finally:
        (place / "go").touch()
        for process in processes:
            process.kill()
            process.join()
    assert result.outcome is UNCERTAIN
    assert result.detail.startswith(f"was begun by site agent {begun.observed[CLAIMED_BY]} at 20")
    assert result.detail.endswith(", and its end is not known: see whether it was done")
    assert lines(place) == ["before/notify 1"]


async def test_a_script_under_way_outlives_the_handing_over_of_its_partition(settings: Settings, place: Path) -> None:
    """The agent that has the partition next waits for the one that has begun, as long as that one is there."""
    options = options_for(place)
    agents = [make_agent(settings, place / "world.db", options=options) for _ in range(3)]
    async with running(agents[0]):
        await publish(settings, running_script("slow"))
        await until_lines(place, 1)
        # One of these two is sure to get the partition when all three are there; it is handed over at each coming.
        async with running(agents[1]), running(agents[2]):
            await _members(settings, 3)
            (place / "go").touch()
            seen = await results(settings, 2)
            # Whoever has the partition in the end says the same once more, if it was asked.
            await publish(settings, running_script("slow"))
            seen = await results(settings, 3)
    assert {one.outcome for one in seen} == {BEGUN, DONE}
    assert len({one.detail for one in seen if one.outcome is DONE}) == 1
    assert lines(place) == ["before/notify 1"]


async def _members(settings: Settings, count: int) -> None:
    """Wait until so many agents are settled in the group."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap)
    await admin.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                (answered,) = await admin.describe_consumer_groups([f"{settings.app_id}-site-primary"])
                (group,) = answered.to_object()["groups"]
                if group["state"] == "Stable" and len(group["members"]) == count:
                    return
                await asyncio.sleep(0.05)
    finally:
        await admin.close()


async def test_an_agent_that_is_there_is_waited_for_and_one_that_is_gone_is_not(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="failover_orch.site.claims")
    may_end = asyncio.Event()

    async def work() -> StepResult:
        await may_end.wait()
        return answer(asked, DONE, "at last", {}, now())

    async def first_agent() -> None:
        await publish(
            settings, await make_claims(settings, "agent-1").once(asked, work, _publishing(settings)), site="primary"
        )

    asked = running_script("slow")
    async with _member(settings, "agent-1"):
        first = asyncio.create_task(first_agent())
        await results(settings, 1)
        second = asyncio.create_task(make_claims(settings, "agent-2").once(asked, _must_not, _publishing(settings)))
        async with asyncio.timeout(PATIENCE_S):
            while "waiting for the agent that began it" not in caplog.messages:  # noqa: ASYNC110 (a log sets no event)
                await asyncio.sleep(0.02)
        assert not second.done()
        may_end.set()
        await first
        assert (await second).detail == "at last"
        # A claim without an end, by an agent that leaves while it is waited for.
        asked = running_script("slow", attempt=2)
        await publish(settings, answer(asked, BEGUN, "", {CLAIM: "x", CLAIMED_BY: "agent-1"}, now()), site="primary")
        caplog.clear()
        third = asyncio.create_task(make_claims(settings, "agent-2").once(asked, _must_not, _publishing(settings)))
        async with asyncio.timeout(PATIENCE_S):
            while "waiting for the agent that began it" not in caplog.messages:  # noqa: ASYNC110 (as above)
                await asyncio.sleep(0.02)
    assert (await asyncio.wait_for(third, PATIENCE_S)).outcome is UNCERTAIN


async def test_an_agent_is_not_waited_for_beyond_the_deadline(settings: Settings) -> None:
    asked = running_script("slow", deadline_ms=now() - 60_000)
    await publish(settings, answer(asked, BEGUN, "", {CLAIM: "x", CLAIMED_BY: "agent-1"}, now()), site="primary")
    async with _member(settings, "agent-1"):
        result = await make_claims(settings, "agent-2").once(asked, _must_not, _publishing(settings))
    assert result.outcome is UNCERTAIN


@asynccontextmanager
async def _member(settings: Settings, name: str) -> AsyncIterator[None]:
    """Somebody of this name in the group of the site's agents."""
    group = f"{settings.app_id}-site-primary"
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.bootstrap, group_id=group, client_id=name)
    consumer.subscribe([settings.names.of("step-commands.primary")])
    await consumer.start()
    try:
        await _members(settings, 1)
        yield
    finally:
        await consumer.stop()


async def test_an_agents_own_script_that_was_cut_off_is_uncertain(settings: Settings, place: Path) -> None:
    """As where it had to let go of Kafka in the middle: what it had under way is killed."""
    claims = make_claims(settings, "agent-1")
    task = asyncio.create_task(claims.once(running_script("slow"), _never, _publishing(settings)))
    await results(settings, 1)
    task.cancel()
    await asyncio.wait([task])
    result = await claims.once(running_script("slow"), _must_not, _publishing(settings))
    assert result.outcome is UNCERTAIN


async def test_of_two_that_believe_to_have_it_one_begins(settings: Settings) -> None:
    """Neither sees the other's claim before it has made its own: the first in the topic holds."""
    both_have_looked = asyncio.Barrier(2)
    begun: list[str] = []

    def agent(name: str) -> Awaitable[StepResult]:
        async def publish_together(result: StepResult) -> None:
            await both_have_looked.wait()
            await publish(settings, result, site="primary")

        async def work() -> StepResult:
            begun.append(name)
            end = answer(asked, DONE, f"by {name}", {CLAIM: name}, now())
            await publish(settings, end, site="primary")
            return end

        return make_claims(settings, name).once(asked, work, publish_together)

    asked = running_script("quick", deadline_ms=soon(2))
    one, other = await asyncio.gather(agent("agent-1"), agent("agent-2"))
    assert len(begun) == 1
    # The one that came second finds no such agent in the group; it may look before or after the first has told its end.
    loser = other if begun == ["agent-1"] else one
    assert loser.outcome in (DONE, UNCERTAIN)


async def test_nothing_is_begun_while_kafka_is_away(kafka: LocalKafka, settings: Settings) -> None:
    claims = make_claims(settings, "agent-1")
    await asyncio.to_thread(kafka.kill_broker, 1)
    begun = asyncio.Event()

    async def work() -> StepResult:
        begun.set()
        return answer(asked, DONE, "", {}, now())

    asked = running_script("quick", deadline_ms=soon(PATIENCE_S))
    task = asyncio.create_task(claims.once(asked, work, _publishing(settings)))
    try:
        await asyncio.wait([task], timeout=1)
        assert not begun.is_set()
    finally:
        await asyncio.to_thread(kafka.start_broker, 1)
    assert (await asyncio.wait_for(task, PATIENCE_S)).outcome is DONE


async def test_what_came_back_too_late_is_not_begun(settings: Settings) -> None:
    """Its deadline passes before the claim, or while that is on its way; either way it counts as ended from then on."""
    claims = make_claims(settings, "agent-1")
    late = running_script("quick", deadline_ms=now() - 1)
    result = await claims.once(late, _must_not, _publishing(settings))
    assert (result.outcome, result.detail) == (FAILED, "not begun: its deadline had passed")
    assert CLAIM in result.observed
    await publish(settings, result, site="primary")
    again = await make_claims(settings, "agent-2").once(
        replace(late, deadline_ms=soon()), _must_not, _publishing(settings)
    )
    assert again == result


async def test_results_older_than_the_ledger_reaches_are_not_read(settings: Settings) -> None:
    asked = running_script("quick")
    await publish(settings, answer(asked, DONE, "long ago", {CLAIM: "x"}, now()), site="primary")
    short = make_claims(settings, "agent-1", hours=0)
    assert (await short.once(asked, _done(asked), _publishing(settings))).detail == "now"
    long = make_claims(settings, "agent-2", hours=1)
    assert (await long.once(asked, _must_not, _publishing(settings))).detail == "long ago"


def make_claims(settings: Settings, agent: str, *, hours: float = 24) -> Claims:
    return Claims(
        CODEC,
        bootstrap=settings.bootstrap,
        names=Names(settings.topic_prefix),
        site="primary",
        group=f"{settings.app_id}-site-primary",
        agent=agent,
        hours=hours,
        clock=now,
    )


def _publishing(settings: Settings) -> Callable[[StepResult], Awaitable[None]]:
    async def publish_it(result: StepResult) -> None:
        await publish(settings, result, site="primary")

    return publish_it


def _done(asked: StepCommand) -> Callable[[], Awaitable[StepResult]]:
    async def work() -> StepResult:
        return answer(asked, DONE, "now", {}, now())

    return work


async def _never() -> StepResult:
    await asyncio.Event().wait()
    raise AssertionError


async def _must_not() -> StepResult:
    raise AssertionError("this is done a second time")


async def test_a_plans_actions_do_not_wait_for_each_other(settings: Settings, place: Path) -> None:
    asked = [running_script("slow", step="1"), running_script("quick", step="2")]
    async with running(make_agent(settings, place / "world.db", options=options_for(place))):
        await publish(settings, *asked)
        seen = await until(settings, "step-results", lambda seen: any(one.value.outcome is DONE for one in seen))
        assert [one.value.step for one in seen if one.value.outcome is DONE] == ["2"]
        (place / "go").touch()
        await results(settings, 4)
