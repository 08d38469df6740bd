"""How fresh what is known is, partition by partition, and when it is too old to be an answer.

All that concerns a VM is in one partition, and that partition alone has to be known for its route. Two things are
watched: up to when everything that Kafka holds has been read (`known`), and up to when everything that nodes reported
has been applied by the workers (`applied`): while a worker is being replaced nobody applies anything, and a route that
is the newest of all may still be an old one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from failover_orch.contract import partition_of
from failover_orch.wire import Progress, now_ms

__all__ = ["APPLIED_WITHIN_MS", "CONFIRMED_WITHIN_MS", "Knowledge"]

CONFIRMED_WITHIN_MS = 5_000
"""How old the last confirmation may be that everything has been read."""
APPLIED_WITHIN_MS = 5_000
"""How long the workers may take to apply what nodes reported, before routes are withheld."""


class Knowledge:
    """Up to when each partition is known. Times are this machine's, in milliseconds; 0: never."""

    def __init__(
        self,
        *,
        confirmed_within_ms: int = CONFIRMED_WITHIN_MS,
        applied_within_ms: int = APPLIED_WITHIN_MS,
        now_ms: Callable[[], int] = now_ms,
    ) -> None:
        self._confirmed_within_ms = confirmed_within_ms
        self._applied_within_ms = applied_within_ms
        self._now_ms = now_ms
        self._read: dict[tuple[str, int], int] = {}
        self._asked: dict[tuple[str, int], tuple[int, int]] = {}
        """For each topic and partition an end that has not been reached yet, and when it was asked for."""
        self._known: list[int] = []
        self._applied: list[int] = []

    @property
    def partitions(self) -> int:
        """How many there are; 0 until Kafka has been asked."""
        return len(self._known)

    def forget(self) -> None:
        """Reading begins anew: nothing is known any more. What the workers have applied stays so."""
        self._read.clear()
        self._asked.clear()
        self._known = []

    def progress(self, progress: Iterable[Progress]) -> None:
        """Take how far reading has come: everything is known up to when the end that has now been reached was asked."""
        for one in progress:
            place = (one.topic, one.partition)
            if not one.asked_at_ms:
                # Not answered for yet; or not again, since a new site's topics were taken up beside it.
                self._read.setdefault(place, 0)
                continue
            if one.position >= one.end:
                self._read[place] = one.asked_at_ms
                self._asked.pop(place, None)
                continue
            # Where records keep coming the newest end is never reached, but the ends asked for before are.
            end, asked_at_ms = self._asked.setdefault(place, (one.end, one.asked_at_ms))
            if one.position >= end:
                self._read[place] = asked_at_ms
                self._asked[place] = (one.end, one.asked_at_ms)
            else:
                self._read.setdefault(place, 0)
        known: dict[int, int] = {}
        for (_, partition), at_ms in self._read.items():
            known[partition] = min(at_ms, known.get(partition, at_ms))
        self._known = [known.get(partition, 0) for partition in range(1 + max(known, default=-1))]

    def confirm(self, partitions: int, at_ms: int) -> None:
        """Everything in so many partitions is known and applied up to a time."""
        self._known = [at_ms] * partitions
        self._applied = [at_ms] * partitions

    def applied(self, partition: int, at_ms: int) -> None:
        """The workers have applied all that nodes had reported in a partition by a time."""
        self._applied += [0] * (partition + 1 - len(self._applied))
        self._applied[partition] = max(self._applied[partition], at_ms)

    def partition_of(self, vm_id: str) -> int:
        """The partition in which everything about a VM is; 0 while nobody knows how many there are."""
        return partition_of(vm_id.encode(errors="replace"), self.partitions) if self._known else 0

    def known_at_ms(self, partition: int | None = None) -> int:
        """Up to when a partition is known; without one: all of them."""
        if partition is None:
            return min(self._known, default=0)
        return self._known[partition] if partition < len(self._known) else 0

    def why_not(self, partition: int | None = None) -> str:
        """Why a partition (all, without one) may not be asked now, as a sentence; empty where it may."""
        known_at_ms = self.known_at_ms(partition)
        if not known_at_ms:
            return "what Kafka holds has not been read to its end yet: try again in a moment"
        age_ms = self._now_ms() - known_at_ms
        if age_ms <= self._confirmed_within_ms:
            return ""
        return f"Kafka has not confirmed for {age_ms / 1000:.1f} s that nothing newer is there: try again in a moment"

    def why_no_route(self, partition: int | None = None) -> str:
        """`why_not`; also where the workers have not applied what nodes reported, so that a VM may have moved."""
        why = self.why_not(partition)
        if why:
            return why
        applied = self._applied if partition is None else self._applied[partition : partition + 1]
        age_ms = self._now_ms() - min(applied, default=0)
        if len(applied) >= (self.partitions if partition is None else 1) and age_ms <= self._applied_within_ms:
            return ""
        if not min(applied, default=0):
            return "nobody knows yet whether the workers have applied what nodes reported: try again in a moment"
        return (
            f"the workers have not applied for {age_ms / 1000:.1f} s what nodes reported, as while one of them is "
            "being replaced: the route may be another by now; try again in a moment"
        )
