"""The witness: what it makes of endpoints, and how it tells it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

import pytest
from test_site_agent import CODEC, PATIENCE_S, Seen, until

from failover_orch.config import Settings
from failover_orch.domain.policies import Evidence, Verdict
from failover_orch.errors import ConfigError, TopicMismatch
from failover_orch.kafka import LocalKafka
from failover_orch.site import Watched, Witness
from failover_orch.wire import now_ms

UP, UNREACHABLE = Verdict.UP, Verdict.UNREACHABLE


@pytest.mark.parametrize(
    ("text", "watched"),
    [
        ("primary=10.0.0.1:5986", Watched("primary", "", "10.0.0.1", 5986)),
        ("primary/p1=p1.example:22", Watched("primary", "p1", "p1.example", 22)),
        ("dr=[fd00::1]:22", Watched("dr", "", "fd00::1", 22)),
    ],
)
def test_what_is_watched(text: str, watched: Watched) -> None:
    assert Watched.parse(text) == watched
    assert str(watched) == text.partition("=")[2]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "primary",
        "primary=10.0.0.1",
        "=10.0.0.1:22",
        "a/=h:1",
        "a/b/c=h:1",
        "a=h:0",
        "a=h:65536",
        "a=h:x",
        "a=::1:22",
    ],
)
def test_what_cannot_be_watched(text: str) -> None:
    with pytest.raises(ConfigError, match="expected SITE=HOST:PORT or SITE/NODE=HOST:PORT"):
        Watched.parse(text)


class Port:
    """A port of this machine that can be listened at, and not."""

    def __init__(self) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as found:
            self.number: int = found.getsockname()[1]
        self._server: asyncio.Server | None = None
        self.probes = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.number)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.probes += 1
        writer.close()

    async def probed(self, times: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.probes < times:  # noqa: ASYNC110 (what is awaited happens in the callback of a server)
                await asyncio.sleep(0.01)


def make_witness(
    settings: Settings,
    *watched: Watched,
    every: float = 0.05,
    down_after: float = 0.0,
    clock: Callable[[], int] = now_ms,
) -> Witness:
    return Witness(
        watched,
        CODEC,
        observer="witness/third",
        place="third",
        bootstrap=settings.bootstrap,
        names=settings.names,
        partitions=settings.partitions,
        every=every,
        down_after=down_after,
        clock=clock,
    )


@asynccontextmanager
async def at_work(witness: Witness) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(witness.run())
    try:
        yield task
    finally:
        witness.stop()
        await asyncio.wait_for(task, PATIENCE_S)


def subjects(seen: list[Seen]) -> dict[str, Verdict]:
    """The newest of each site and node."""
    return {f"{one.value.site}/{one.value.node}": one.value.verdict for one in seen}


def standing(wanted: dict[str, Verdict]) -> Callable[[list[Seen]], bool]:
    return lambda seen: subjects(seen) == wanted


async def test_a_site_is_there_while_anything_of_it_answers(settings: Settings) -> None:
    gateway, node, other = Port(), Port(), Port()
    for port in (gateway, node, other):
        await port.open()
    watched = (
        Watched("primary", "", "127.0.0.1", gateway.number),
        Watched("primary", "p1", "127.0.0.1", node.number),
        Watched("dr", "", "127.0.0.1", other.number),
    )
    all_up = {"primary/": UP, "primary/p1": UP, "dr/": UP}
    async with at_work(make_witness(settings, *watched)):
        # All of it goes to every partition, if not at one stroke.
        everywhere = set(range(settings.partitions))
        seen = await until(
            settings,
            "evidence",
            lambda seen: subjects(seen) == all_up and {one.record.partition for one in seen} == everywhere,
        )
        first: Evidence = seen[0].value
        assert (first.observer, first.place) == ("witness/third", "third")
        assert first.detail == f"127.0.0.1:{gateway.number} answers"
        await gateway.close()
        # Its gateway does not answer and one of its nodes does: the site is there.
        await other.probed(other.probes + 8)
        assert subjects(await until(settings, "evidence", standing(all_up))) == all_up
        await node.close()
        gone = {"primary/": UNREACHABLE, "primary/p1": UNREACHABLE, "dr/": UP}
        seen = await until(settings, "evidence", standing(gone))
        told = next(one.value for one in seen if one.value.verdict is UNREACHABLE and not one.value.node)
        assert f"127.0.0.1:{gateway.number}: " in told.detail
        assert f"; 127.0.0.1:{node.number}: " in told.detail
        await gateway.open()
        await until(settings, "evidence", standing({**gone, "primary/": UP}))
    for port in (gateway, other):
        await port.close()


def test_one_probe_that_misses_is_no_verdict_yet() -> None:
    (watched,) = (Watched("primary", "", "127.0.0.1", 1),)
    witness = make_witness(Settings(), watched)

    def after(failure: str) -> Verdict | None:
        witness._judge({watched: failure})
        newest = witness._newest.get(("primary", ""))
        return None if newest is None else newest.verdict

    assert [after(failure) for failure in ("no", "no", "", "no", "no", "", "no", "no", "no", "no", "")] == [
        None,
        None,
        UP,
        None,
        None,
        UP,
        None,
        None,
        UNREACHABLE,
        UNREACHABLE,
        UP,
    ]


def test_it_says_down_only_where_it_was_told_how_long_a_site_that_is_cut_off_goes_on() -> None:
    (watched,) = (Watched("primary", "", "127.0.0.1", 1),)
    clock = iter(range(1_000, 100_000, 1_000))

    def verdicts(down_after: float) -> list[Verdict | None]:
        witness = make_witness(Settings(), watched, down_after=down_after, clock=lambda: next(clock))
        found: list[Verdict | None] = []
        for failure in ("no", "no", "no", "no", "no", "", "no"):
            witness._judge({watched: failure})
            newest = witness._newest.get(("primary", ""))
            found.append(newest.verdict if newest else None)
        return found

    assert verdicts(4) == [None, None, UNREACHABLE, UNREACHABLE, Verdict.DOWN, UP, None]
    assert verdicts(0) == [None, None, UNREACHABLE, UNREACHABLE, UNREACHABLE, UP, None]


async def test_a_host_that_does_not_exist_does_not_answer(settings: Settings) -> None:
    nowhere = (Watched("primary", "", "nowhere.invalid", 22), Watched("primary", "", "a" * 100, 22))
    async with at_work(make_witness(settings, *nowhere)):
        await until(settings, "evidence", standing({"primary/": UNREACHABLE}))


async def test_probing_goes_on_while_kafka_is_away_and_the_newest_is_told(
    kafka: LocalKafka, settings: Settings
) -> None:
    port = Port()
    await port.open()
    async with at_work(make_witness(settings, Watched("primary", "", "127.0.0.1", port.number))) as task:
        await until(settings, "evidence", standing({"primary/": UP}))
        await asyncio.to_thread(kafka.kill_broker, 1)
        try:
            probes = port.probes
            await port.probed(probes + 60)
            assert not task.done()
        finally:
            await asyncio.to_thread(kafka.start_broker, 1)
        probes_at_return = port.probes
        await port.close()
        seen = await until(settings, "evidence", standing({"primary/": UNREACHABLE}))
    # All that was seen meanwhile was not saved up.
    assert probes_at_return - probes >= 60
    per_partition = len(seen) / settings.partitions
    assert per_partition < port.probes - 40


async def test_a_missing_topic_ends_the_witness_with_a_sentence(settings: Settings) -> None:
    port = Port()
    await port.open()
    elsewhere = Settings(bootstrap=settings.bootstrap, topic_prefix="elsewhere-", partitions=settings.partitions)
    with pytest.raises(TopicMismatch, match="elsewhere-evidence"):
        await make_witness(elsewhere, Watched("primary", "", "127.0.0.1", port.number)).run()
    await port.close()
