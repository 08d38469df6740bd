"""A worker says which sites were added since it was started, for as long as it does not read them. Without Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest

from failover_orch import telemetry
from failover_orch.config import Settings
from failover_orch.contract import sources_of
from failover_orch.errors import KafkaUnavailable
from failover_orch.streams import new_sites


async def test_it_is_said_again_and_again_and_a_kafka_that_is_away_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[tuple[str, ...] | None] = [None, ("third",), ("third",), ()]
    counted: list[int] = []
    done = asyncio.Event()

    async def unread(settings: Settings, sources: Collection[str]) -> tuple[str, ...]:
        assert sources == sources_of(("dr",))
        answer = answers.pop(0)
        if answer is None:
            raise KafkaUnavailable("away")
        return answer

    def record(sites: int) -> None:
        counted.append(sites)
        if not answers:
            done.set()

    monkeypatch.setattr(new_sites, "LOOK_EVERY_S", 0)
    monkeypatch.setattr(new_sites, "unread_sites", unread)
    monkeypatch.setattr(telemetry, "record_unread_sites", record)
    watch = asyncio.ensure_future(new_sites.watching(Settings(), sources_of(("dr",)))())
    async with asyncio.timeout(10):
        await done.wait()
    watch.cancel()
    assert counted == [1, 1, 0]
    assert caplog.text.count("sites were added that this worker does not read: start it again") == 2
