"""Hash chains over journal and audit entries: sealing what is written, and finding what was done to it since.

A chain is written by one partition task; its head (the last entry's sequence and hash) is part of that task's state.
Its entries go to Kafka by key, so that they lie spread over several partitions. Order can therefore be judged only
within one place (a partition, or the lines of an export that came from it); across places, sequences and hashes hold
the chain together.

The hash has no key: whoever can rewrite a whole chain and its head in the task's state leaves no trace. Exports kept
elsewhere are what finds that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from itertools import groupby
from typing import Any, TypeVar

from failover_orch.domain.records import AuditEntry, JournalEntry

__all__ = ["ChainFinding", "ChainHead", "Link", "Sealed", "hash_of", "link", "seal", "verify"]

Sealed = TypeVar("Sealed", JournalEntry, AuditEntry)


@dataclass(frozen=True, slots=True)
class ChainHead:
    """Where a chain ends: the last entry's sequence and hash. An empty chain has sequence -1 and no hash."""

    chain: str
    sequence: int
    hash: str

    @classmethod
    def start(cls, chain: str) -> ChainHead:
        """The head of a chain that has no entries yet."""
        return cls(chain, -1, "")


@dataclass(frozen=True, slots=True)
class Link:
    """What `verify` needs to know of an entry: its place, what it says of itself, and the hash that its content has."""

    place: str
    chain: str
    sequence: int
    previous_hash: str
    hash: str
    content_hash: str


@dataclass(frozen=True, slots=True)
class ChainFinding:
    """One thing that is wrong with a chain, and at which entry."""

    chain: str
    sequence: int
    what: str

    def __str__(self) -> str:
        return f"{self.chain or 'no chain'}, entry {self.sequence}: {self.what}"


def seal(entry: Sealed, head: ChainHead) -> tuple[Sealed, ChainHead]:
    """Make an entry the next of a chain. Returns the sealed entry and the chain's new head."""
    placed = replace(entry, chain=head.chain, chain_sequence=head.sequence + 1, previous_hash=head.hash, hash="")
    sealed = replace(placed, hash=hash_of(placed))
    return sealed, ChainHead(sealed.chain, sealed.chain_sequence, sealed.hash)


def hash_of(entry: JournalEntry | AuditEntry) -> str:
    """SHA-256, in lower-case hexadecimal, of an entry's kind and of every field but `hash`.

    A field that has its default is left out, so that a field added later does not change the hash of what was written
    before it. Fields must therefore never be renamed or dropped, nor their defaults changed.
    """
    content: dict[str, Any] = {}
    for name, default in _HASHED[type(entry)]:
        value = getattr(entry, name)
        if value != default:
            content[name] = dict(value) if isinstance(value, Mapping) else value
    # JSON with sorted keys and nothing but ASCII has one form only for one content.
    text = json.dumps([type(entry).__name__, content], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _hashed(kind: type) -> tuple[tuple[str, object], ...]:
    """Names of the hashed fields with their defaults; MISSING, which equals nothing, where there is none."""
    return tuple(
        (field.name, field.default if field.default_factory is MISSING else field.default_factory())
        for field in fields(kind)
        if field.name != "hash"
    )


_HASHED: dict[type, tuple[tuple[str, object], ...]] = {kind: _hashed(kind) for kind in (JournalEntry, AuditEntry)}


def link(entry: JournalEntry | AuditEntry, place: str) -> Link:
    """Reduce an entry, read at a place such as `failover-journal/3`, to what `verify` needs."""
    return Link(place, entry.chain, entry.chain_sequence, entry.previous_hash, entry.hash, hash_of(entry))


def verify(
    links: Iterable[Link], heads: Iterable[ChainHead], heads_after: Iterable[ChainHead] | None = None
) -> list[ChainFinding]:
    """What is wrong with chains, by chain and sequence; nothing where they are sound.

    `links` come from any number of places, each place's in the order in which its entries stand there. Every entry up
    to its chain's head in `heads` must be there; none may lie beyond the one in `heads_after`. Where entries are
    written meanwhile, read `heads` before them and `heads_after` behind them: what lies between the two may be there in
    part. Without `heads_after` nothing was written meanwhile.
    """
    chains: dict[str, list[Link]] = {}
    for each in links:
        chains.setdefault(each.chain, []).append(each)
    required = {head.chain: head for head in heads}
    allowed = required if heads_after is None else {head.chain: head for head in heads_after}
    findings = []
    for name in sorted(chains.keys() | required.keys() | allowed.keys()):
        nothing = ChainHead.start(name)
        chain = _Chain(chains.get(name, []), required.get(name, nothing), allowed.get(name, nothing))
        found = (ChainFinding(name, sequence, what) for check in _CHECKS for sequence, what in check(chain))
        findings += sorted(found, key=lambda finding: finding.sequence)
    return findings


class _Chain:
    """A chain as it was read, for the checks below."""

    __slots__ = ("allowed", "by_sequence", "links", "required", "sequences")

    def __init__(self, links: Sequence[Link], required: ChainHead, allowed: ChainHead) -> None:
        self.links = links
        self.required = required
        self.allowed = allowed
        self.by_sequence: dict[int, Link] = {}
        for each in links:
            self.by_sequence.setdefault(each.sequence, each)
        self.sequences = sorted(self.by_sequence)


_Found = Iterator[tuple[int, str]]


def _changed(chain: _Chain) -> _Found:
    for each in chain.links:
        if each.hash != each.content_hash:
            yield each.sequence, f"changed: its content at {each.place} does not have its hash"


def _repeated(chain: _Chain) -> _Found:
    for each in chain.links:
        first = chain.by_sequence[each.sequence]
        if each is first:
            continue
        if (each.hash, each.content_hash) == (first.hash, first.content_hash):
            yield each.sequence, f"repeated: it stands at {first.place} and again at {each.place}"
        else:
            yield each.sequence, f"forged: {first.place} and {each.place} hold different entries of this number"


def _reordered(chain: _Chain) -> _Found:
    before: dict[str, int] = {}
    for each in chain.links:
        last = before.get(each.place)
        if last is not None and each.sequence < last:
            yield each.sequence, f"reordered: it stands after entry {last} at {each.place}"
        before[each.place] = each.sequence


def _removed(chain: _Chain) -> _Found:
    expected = 0
    for sequence in (*(each for each in chain.sequences if 0 <= each <= chain.required.sequence), None):
        upto = chain.required.sequence if sequence is None else sequence - 1
        if expected <= upto:
            which = "it is" if expected == upto else f"entries {expected} to {upto} are"
            yield expected, f"removed: {which} missing, and the chain goes to {chain.required.sequence}"
        if sequence is not None:
            expected = sequence + 1


def _unjoined(chain: _Chain) -> _Found:
    for sequence in chain.sequences:
        each = chain.by_sequence[sequence]
        before = chain.by_sequence.get(sequence - 1)
        if before is not None and each.previous_hash != before.hash:
            yield sequence, f"changed or forged: its previous hash is not that of entry {sequence - 1}"


def _unlike_head(chain: _Chain) -> _Found:
    for head in (chain.required, chain.allowed):
        last = chain.by_sequence.get(head.sequence)
        if last is not None and last.hash != head.hash:
            yield head.sequence, "changed or forged: the task's state holds another hash for it"
            return


def _beyond_head(chain: _Chain) -> _Found:
    if chain.allowed.sequence < chain.required.sequence:
        yield chain.allowed.sequence, f"the head went back, from entry {chain.required.sequence}"
    beyond = [sequence for sequence in chain.sequences if not 0 <= sequence <= chain.allowed.sequence]
    # Neighbours keep a constant distance to their index: one finding for each run of them.
    for _, run in groupby(enumerate(beyond), lambda each: each[1] - each[0]):
        sequences = [sequence for _, sequence in run]
        which = "it stands" if len(sequences) == 1 else f"entries {sequences[0]} to {sequences[-1]} stand"
        yield sequences[0], f"forged: {which} outside the chain, which ends with entry {chain.allowed.sequence}"


_CHECKS: tuple[Callable[[_Chain], _Found], ...] = (
    _changed,
    _repeated,
    _reordered,
    _removed,
    _unjoined,
    _unlike_head,
    _beyond_head,
)
