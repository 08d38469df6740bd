"""A source topic that was deleted and made again under a state that remembers the old one."""

from __future__ import annotations

from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from topics import publisher, values_once
from workers import running_workers, until

from failover_orch.config import Settings
from failover_orch.domain import MoveKind, VmMoved
from failover_orch.streams import EXIT_FAULT


async def test_a_worker_says_so_and_skips_nothing_silently(settings: Settings, tmp_path: Path) -> None:
    with running_workers(settings, tmp_path, 1) as workers:
        async with publisher(settings) as publishing:
            moves = [VmMoved(f"vm-{number}", "dr", "d1", MoveKind.PLACED, 1) for number in range(20)]
            await publishing.publish(*moves)
        await values_once(settings, "routing-updates", lambda found: len(found) == len(moves))
        workers.stop(0)
        await _make_anew(settings, "vm-moved")
        workers.start(0)
        await until(lambda: EXIT_FAULT in workers.left, "the worker ends itself")
        assert any("the topic was made anew" in why for why in workers.said_at_the_end())


async def _make_anew(settings: Settings, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap)
    await admin.start()
    try:
        name = settings.names.of(topic)
        await admin.delete_topics([name])
        made = False
        while not made:  # Kafka deletes in its own time
            response = await admin.create_topics([NewTopic(name, settings.partitions, 1)])
            made = response.topic_errors[0][1] == 0
    finally:
        await admin.close()
