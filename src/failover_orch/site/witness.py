"""A witness in a third place: probes the sites from outside and tells what it makes of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from failover_orch import telemetry
from failover_orch.contract import Codec, Names
from failover_orch.domain.policies import Evidence, Verdict
from failover_orch.errors import ConfigError, KafkaError, TopicMismatch
from failover_orch.site.pause import Pause
from failover_orch.wire import Publisher, now_ms

__all__ = ["Watched", "Witness"]

_log = telemetry.logger(__name__)

_PROBE_S = 2.0
_MISSES = 3
"""Probes in a row that nothing answers before a site or node counts as unreachable."""
_PATIENCE_S = 5.0
_ENDPOINT = re.compile(
    r"(?P<site>[^/=]+)(/(?P<node>[^/=]+))?=(\[(?P<literal>[^\[\]\s]+)\]|(?P<host>[^:\[\]\s]+)):(?P<port>\d{1,5})"
)
_PORTS = range(1, 65_536)


@dataclass(frozen=True, slots=True)
class Watched:
    """A TCP endpoint that stands for a site, or for one node of it."""

    site: str
    node: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Watched:
        """Read `site=host:port` or `site/node=host:port`; an IPv6 address stands in brackets.

        Raises:
            ConfigError: it is neither.

        """
        found = _ENDPOINT.fullmatch(text)
        if found is None or int(found["port"]) not in _PORTS:
            raise ConfigError(
                f"--watch {text!r}: expected SITE=HOST:PORT or SITE/NODE=HOST:PORT, such as primary/p1=10.0.0.11:22"
            )
        return cls(found["site"], found["node"] or "", found["literal"] or found["host"], int(found["port"]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Witness:
    """Probes endpoints and publishes `Evidence`, for as long as `run` does.

    A watched site is UP where any of its endpoints, or of its nodes', answers, and UNREACHABLE where none did three
    times in a row; a watched node likewise by its own. In between, and at first, nothing is said. An endpoint answers
    by accepting a connection within two seconds.

    That a witness does not reach a site is no proof that nothing runs there. Where the site shuts its VMs down once it
    has been cut off for some time, that time may be given as `down_after`: then the verdict is DOWN, which is a fence.
    """

    def __init__(
        self,
        watched: Sequence[Watched],
        codec: Codec,
        *,
        observer: str,
        place: str,
        bootstrap: str,
        names: Names,
        partitions: int,
        every: float = 5.0,
        down_after: float = 0.0,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        """`place` is where the witness is, `every` the seconds between probes, `partitions` how many topics have.

        `down_after` are the seconds without an answer after which a subject counts as DOWN; 0: it never does.
        """
        self._watched = tuple(watched)
        self._codec = codec
        self._observer = observer
        self._place = place
        self._bootstrap = bootstrap
        self._names = names
        self._partitions = partitions
        self._every = every
        self._down_after_ms = round(down_after * 1000)
        self._clock = clock
        self._subjects = {(one.site, one.node): _Subject() for one in watched}
        self._newest: dict[tuple[str, str], Evidence] = {}
        self._news = asyncio.Event()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ask `run` to end."""
        self._stopping.set()

    async def run(self) -> None:
        """Probe and tell until `stop`. Kafka may come and go meanwhile: probing goes on, and only the newest is told.

        Raises:
            TopicMismatch: the topic is missing, or has another number of partitions than the settings say.

        """
        _log.info("witness works", observer=self._observer, place=self._place)
        jobs = [asyncio.create_task(job()) for job in (self._stopping.wait, self._probe, self._tell)]
        try:
            # The others end by themselves only with an error.
            await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for job in jobs:
                job.cancel()
            outcomes = await asyncio.gather(*jobs, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        _log.info("witness ends", observer=self._observer)

    async def _probe(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            failures = await asyncio.gather(*map(_failure, self._watched))
            self._judge(dict(zip(self._watched, failures, strict=True)))
            await asyncio.sleep(max(0.0, begun + self._every - loop.time()))

    def _judge(self, failures: Mapping[Watched, str]) -> None:
        at_ms = self._clock()
        for (site, node), subject in self._subjects.items():
            # A node that answers shows that its site is there; the other way round nothing follows.
            concerned = {one: why for one, why in failures.items() if one.site == site and node in ("", one.node)}
            answered = next((one for one, why in concerned.items() if not why), None)
            verdict = subject.verdict(at_ms, self._down_after_ms, answered=answered is not None)
            if verdict is None:
                # What was so a while ago must not be told again as if it had just been seen.
                self._newest.pop((site, node), None)
                continue
            detail = f"{answered} answers" if answered else "; ".join(f"{one}: {why}" for one, why in concerned.items())
            if verdict is not subject.told:
                _log.info("verdict", site=site, node=node, verdict=str(verdict), detail=detail)
                subject.told = verdict
            self._newest[site, node] = Evidence(
                self._observer, self._place, site, verdict, at_ms, node=node, detail=detail
            )
        if self._newest:
            self._news.set()

    async def _tell(self) -> None:
        pause = Pause(self._stopping)
        while True:
            try:
                # Another publisher after each failure: this one's undelivered evidence must not come out later.
                async with Publisher(
                    self._bootstrap,
                    self._codec,
                    names=self._names,
                    partitions=self._partitions,
                    source=self._observer,
                    patience_s=_PATIENCE_S,
                ) as publisher:
                    while True:
                        await self._news.wait()
                        self._news.clear()
                        await publisher.publish(*self._newest.values())
                        pause.reset()
            except TopicMismatch:
                raise
            except KafkaError as error:
                _log.warning("evidence not told, will try again", error=error)
                # What was not told still is the newest, unless something newer has come.
                self._news.set()
                await pause.take()


class _Subject:
    """How often in a row a site or node did not answer."""

    def __init__(self) -> None:
        self._misses = 0
        self._silent_since_ms = 0
        self.told: Verdict | None = None

    def verdict(self, at_ms: int, down_after_ms: int, *, answered: bool) -> Verdict | None:
        """What follows from one more probe; None: nothing yet."""
        if answered:
            self._misses = self._silent_since_ms = 0
            return Verdict.UP
        self._misses += 1
        self._silent_since_ms = self._silent_since_ms or at_ms
        if self._misses < _MISSES:
            return None
        down = 0 < down_after_ms <= at_ms - self._silent_since_ms
        return Verdict.DOWN if down else Verdict.UNREACHABLE


async def _failure(watched: Watched) -> str:
    """Why an endpoint does not answer; empty where it does."""
    try:
        async with asyncio.timeout(_PROBE_S):
            _, writer = await asyncio.open_connection(watched.host, watched.port)
    except TimeoutError:
        return f"no answer within {_PROBE_S:g} s"
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be one of a host
        return str(error) or type(error).__name__
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_PROBE_S):
            await writer.wait_closed()
    return ""
