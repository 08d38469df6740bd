"""Sites' own topics on real Kafka: what is said there for another site, and a site that is added to a running one."""

from __future__ import annotations

from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from topics import CODEC, values, values_once
from workers import running_workers, until

from failover_orch.config import Settings
from failover_orch.contract import key_of, sources_of
from failover_orch.domain import DeadLetter, MoveKind, RoutingUpdate, VmMoved
from failover_orch.kafka import create_topics, desired_topics
from failover_orch.streams.new_sites import unread_sites
from failover_orch.wire import Publisher

ALL = {0, 1, 2, 3}
VMS = [f"vm-{number}" for number in range(12)]


def speaking(settings: Settings, site: str) -> Publisher:
    """A publisher as a site's agents have it."""
    return Publisher(
        settings.bootstrap, CODEC, names=settings.names, partitions=settings.partitions, source="test", site=site
    )


def arrival(vm_id: str, site: str, node: str) -> VmMoved:
    return VmMoved(vm_id, site, node, MoveKind.PLACED, 1_700_000_000_000, sequence=1)


def nodes(updates: list[RoutingUpdate]) -> dict[str, set[str]]:
    """The nodes that each VM is known to be on."""
    latest = {update.vm_id: update for update in updates}
    return {vm_id: {location.node for location in update.locations} for vm_id, update in latest.items()}


def shared(reading: list[set[int]]) -> bool:
    """Whether every partition is read, by one worker each, and none of them reads all."""
    return sorted(partition for reads in reading for partition in reads) == sorted(ALL) and ALL not in reading


async def test_what_a_sites_agents_say_for_another_site_is_buried_with_the_reason(
    settings: Settings, tmp_path: Path
) -> None:
    with running_workers(settings, tmp_path, 1) as workers:
        await until(lambda: workers.reads(0) == ALL, "the worker reads everything")
        async with speaking(settings, "primary") as agent:
            await agent.publish(arrival("vm-forged", "dr", "d1"), arrival("vm-1", "primary", "p1"))
        (letter,) = await values_once(settings, "dead-letters", bool)
        known = await values_once(settings, "routing-updates", bool)
    assert isinstance(letter, DeadLetter)
    assert (letter.topic, letter.key) == ("vm-moved.primary", key_of(arrival("vm-forged", "dr", "d1")))
    assert "speaks for site 'dr': the agents of a site speak for that site alone" in letter.reason
    assert nodes(known) == {"vm-1": {"p1"}}


async def test_a_site_that_is_added_is_read_by_workers_started_since_and_no_partition_is_in_two_hands(
    settings: Settings, tmp_path: Path
) -> None:
    async def place(site: str, node: str) -> None:
        async with speaking(settings, site) as agent:
            await agent.publish(*(arrival(vm_id, site, node) for vm_id in VMS))

    with running_workers(settings, tmp_path, 2) as workers:
        await until(lambda: workers.reads(0) | workers.reads(1) == ALL, "two workers read everything")
        await place("primary", "p1")
        await values_once(settings, "routing-updates", lambda updates: len(nodes(updates)) == len(VMS))
        added = desired_topics(settings, ("third",), 1)
        await create_topics(settings.bootstrap, added)
        try:
            assert await unread_sites(settings, sources_of(("dr", "primary"))) == ("third",)
            await place("third", "t1")
            # One that was started since has everything, since it alone reads all topics of a partition.
            workers.start()
            await until(lambda: workers.reads(2) == ALL, "the new worker reads everything")
            await values_once(
                settings,
                "routing-updates",
                lambda updates: all("t1" in where for where in nodes(updates).values()),
            )
            assert workers.reads(0) == workers.reads(1) == set()
            # Started again, one after the other, the others take their share.
            for number in (0, 1):
                workers.stop(number)
                workers.start(number)
            await until(lambda: shared([workers.reads(number) for number in range(3)]), "they share the partitions")
            assert await unread_sites(settings, sources_of(("dr", "primary", "third"))) == ()
            assert workers.said_at_the_end() == []
        finally:
            await deleted(settings, [topic.name for topic in added if topic.name.endswith(".third")])
    assert await values(settings, "dead-letters") == []


async def deleted(settings: Settings, topics: list[str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap)
    await admin.start()
    try:
        await admin.delete_topics(topics)
    finally:
        await admin.close()
