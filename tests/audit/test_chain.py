"""Hash chains: whatever is done to one entry of any chain is found, and nothing is found where nothing was done."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from failover_orch.domain.chain import ChainFinding, ChainHead, hash_of, link, seal, verify
from failover_orch.domain.records import AuditEntry, JournalEntry

Entry = JournalEntry | AuditEntry
TEXT = st.text(max_size=4)
EVIDENCE = st.dictionaries(TEXT, TEXT, max_size=2)
JOURNAL_ENTRIES = st.builds(
    JournalEntry,
    run_id=TEXT,
    vm_id=TEXT,
    sequence=st.integers(0, 5),
    rule=TEXT,
    what=TEXT,
    state=TEXT,
    at_ms=st.integers(0, 3),
    actor=TEXT,
    evidence=EVIDENCE,
)
AUDIT_ENTRIES = st.builds(AuditEntry, subject=TEXT, what=TEXT, outcome=TEXT, at_ms=st.integers(0, 3), evidence=EVIDENCE)


@dataclass(frozen=True)
class Trail:
    """Sealed entries with their places, in the order in which they were written, and the chains' heads."""

    standing: tuple[tuple[str, Entry], ...]
    heads: tuple[ChainHead, ...]

    def findings(self, standing: Sequence[tuple[str, Entry]] | None = None) -> list[ChainFinding]:
        return verify([link(entry, place) for place, entry in (standing or self.standing)], self.heads)


@st.composite
def trails(draw: st.DrawFn, least: int = 1) -> Trail:
    """Journal and audit chains of three tasks, their entries spread over three partitions of each topic."""
    standing: list[tuple[str, Entry]] = []
    heads: dict[str, ChainHead] = {}
    for _ in range(draw(st.integers(least, 12))):
        task, place = draw(st.integers(0, 2)), draw(st.integers(0, 2))
        if draw(st.booleans()):
            chain = f"journal/{task}"
            entry, heads[chain] = seal(draw(JOURNAL_ENTRIES), heads.get(chain, ChainHead.start(chain)))
            standing.append((f"failover-journal/{place}", entry))
        else:
            chain = f"audit/{task}"
            sealed, heads[chain] = seal(draw(AUDIT_ENTRIES), heads.get(chain, ChainHead.start(chain)))
            standing.append((f"audit-trail/{place}", sealed))
    return Trail(tuple(standing), tuple(heads.values()))


def rehashed(entry: Entry) -> Entry:
    """An entry as a forger who knows the rules leaves it."""
    return replace(entry, hash=hash_of(entry))


@settings(deadline=None)
@given(trails(), st.randoms(use_true_random=False))
def test_sound_chains_verify_in_whatever_order_the_places_are_read(trail: Trail, random: Random) -> None:
    places = sorted({place for place, _ in trail.standing})
    random.shuffle(places)
    assert trail.findings([each for place in places for each in trail.standing if each[0] == place]) == []


@settings(max_examples=300, deadline=None)
@given(trails(), st.data(), st.booleans())
def test_any_change_of_any_field_is_found(trail: Trail, data: st.DataObject, with_new_hash: bool) -> None:
    at = data.draw(st.integers(0, len(trail.standing) - 1))
    place, entry = trail.standing[at]
    name = data.draw(st.sampled_from([field.name for field in fields(entry)]))
    value = getattr(entry, name)
    other = value + 1 if isinstance(value, int) else f"{value}x" if isinstance(value, str) else {**value, "new": ""}
    changes: Any = {name: other}
    changed = replace(entry, **changes)
    if with_new_hash:
        assume(name != "hash")
        changed = rehashed(changed)
    findings = trail.findings([*trail.standing[:at], (place, changed), *trail.standing[at + 1 :]])
    assert findings
    assert any(
        f.chain in (entry.chain, changed.chain) and abs(f.sequence - entry.chain_sequence) <= 1 for f in findings
    )


@settings(deadline=None)
@given(trails(), st.data())
def test_any_removal_is_found(trail: Trail, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(trail.standing) - 1))
    gone = trail.standing[at][1]
    rest = [*trail.standing[:at], *trail.standing[at + 1 :]]
    findings = verify([link(entry, place) for place, entry in rest], trail.heads)
    assert [(finding.chain, finding.sequence) for finding in findings] == [(gone.chain, gone.chain_sequence)]
    assert findings[0].what.startswith("removed: it is missing")


@settings(max_examples=200, deadline=None)
@given(trails(least=2), st.data())
def test_any_swap_of_a_chains_entries_is_found(trail: Trail, data: st.DataObject) -> None:
    pairs = [
        (a, b)
        for a, (place, first) in enumerate(trail.standing)
        for b, (other, second) in enumerate(trail.standing)
        if a < b and place == other and first.chain == second.chain
    ]
    assume(pairs)
    a, b = data.draw(st.sampled_from(pairs))
    swapped = list(trail.standing)
    swapped[a], swapped[b] = swapped[b], swapped[a]
    assert any("reordered" in finding.what for finding in trail.findings(swapped))


@settings(deadline=None)
@given(trails(), st.data())
def test_any_repetition_is_found(trail: Trail, data: st.DataObject) -> None:
    place, entry = data.draw(st.sampled_from(trail.standing))
    elsewhere = data.draw(st.sampled_from([place, f"{place}0"]))
    assert [
        str(finding) for finding in trail.findings([*trail.standing, (elsewhere, entry)]) if "rep" in finding.what
    ] == [f"{entry.chain}, entry {entry.chain_sequence}: repeated: it stands at {place} and again at {elsewhere}"]


@settings(deadline=None)
@given(trails(), st.data())
def test_a_second_entry_of_the_same_number_is_found(trail: Trail, data: st.DataObject) -> None:
    place, entry = data.draw(st.sampled_from(trail.standing))
    forged = rehashed(replace(entry, what=f"{entry.what}x"))
    findings = trail.findings([*trail.standing, (place, forged)])
    assert any("forged" in finding.what and finding.sequence == entry.chain_sequence for finding in findings)


@settings(deadline=None)
@given(trails(), JOURNAL_ENTRIES, st.integers(0, 3))
def test_an_entry_appended_by_the_rules_of_the_chain_is_found(trail: Trail, entry: JournalEntry, task: int) -> None:
    chain = f"journal/{task}"
    head = next((head for head in trail.heads if head.chain == chain), ChainHead.start(chain))
    forged, _ = seal(entry, head)
    findings = trail.findings([*trail.standing, ("failover-journal/0", forged)])
    assert findings == [
        ChainFinding(
            chain,
            head.sequence + 1,
            f"forged: it stands outside the chain, which ends with entry {head.sequence}",
        )
    ]


@settings(deadline=None)
@given(trails(), st.data())
def test_what_is_written_meanwhile_is_no_fault_even_where_it_is_there_in_part(
    trail: Trail, data: st.DataObject
) -> None:
    after = {head.chain: head for head in trail.heads}
    standing = list(trail.standing)
    written: list[tuple[str, Entry]] = []
    for _ in range(data.draw(st.integers(1, 5))):
        chain = data.draw(st.sampled_from(["journal/0", "journal/7"]))
        entry, after[chain] = seal(data.draw(JOURNAL_ENTRIES), after.get(chain, ChainHead.start(chain)))
        written.append((f"failover-journal/{data.draw(st.integers(0, 2))}", entry))
    seen = data.draw(st.lists(st.sampled_from(range(len(written))), unique=True).map(sorted))
    standing += [written[at] for at in seen]
    assert verify([link(entry, place) for place, entry in standing], trail.heads, after.values()) == []


@settings(deadline=None)
@given(trails())
def test_a_changed_entry_among_those_written_meanwhile_is_found(trail: Trail) -> None:
    after = {head.chain: head for head in trail.heads}
    entry, head = seal(
        JournalEntry("r", "v", 0, "P1", "w", "s", 1), after.get("journal/0", ChainHead.start("journal/0"))
    )
    after[head.chain] = head
    standing = [*trail.standing, ("failover-journal/0", rehashed(replace(entry, what="other")))]
    findings = verify([link(each, place) for place, each in standing], trail.heads, after.values())
    assert [finding.what for finding in findings] == ["changed or forged: the task's state holds another hash for it"]


def chained(count: int) -> tuple[list[AuditEntry], ChainHead]:
    head, entries = ChainHead.start("audit/0"), []
    for number in range(count):
        entry, head = seal(AuditEntry("vm-1", f"step {number}", "done", number), head)
        entries.append(entry)
    return entries, head


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [
        (range(2, 6), "audit/0, entry 0: removed: entries 0 to 1 are missing, and the chain goes to 5"),
        (range(4), "audit/0, entry 4: removed: entries 4 to 5 are missing, and the chain goes to 5"),
        ([0, 1, 4, 5], "audit/0, entry 2: removed: entries 2 to 3 are missing, and the chain goes to 5"),
        ([], "audit/0, entry 0: removed: entries 0 to 5 are missing, and the chain goes to 5"),
    ],
)
def test_a_removed_stretch_is_one_finding(kept: Sequence[int], sentence: str) -> None:
    entries, head = chained(6)
    assert [str(each) for each in verify([link(entries[at], "audit-trail/0") for at in kept], [head])] == [sentence]


def test_heads_that_went_back_or_are_gone_are_found() -> None:
    entries, head = chained(3)
    links = [link(entry, "audit-trail/0") for entry in entries]
    back = ChainHead("audit/0", 1, entries[1].hash)
    assert [str(each) for each in verify(links, [head], [back])] == [
        "audit/0, entry 1: the head went back, from entry 2",
        "audit/0, entry 2: forged: it stands outside the chain, which ends with entry 1",
    ]
    assert [str(each) for each in verify(links, [])] == [
        "audit/0, entry 0: forged: entries 0 to 2 stand outside the chain, which ends with entry -1"
    ]


def test_an_entry_that_was_never_sealed_is_found() -> None:
    findings = verify([link(AuditEntry("vm-1", "what", "done", 1), "audit-trail/0")], [])
    assert [str(finding) for finding in findings] == [
        "no chain, entry 0: changed: its content at audit-trail/0 does not have its hash",
        "no chain, entry 0: forged: it stands outside the chain, which ends with entry -1",
    ]


def test_the_hash_is_over_what_differs_from_the_defaults() -> None:
    # So that a field with a default, added later, leaves the hashes of all that was written before as they were.
    entry = AuditEntry("vm-1", "moved ü", "done", 7, evidence={"b": "2", "a": "1"}, chain="audit/0", hash="whatever")
    text = (
        '["AuditEntry",{"at_ms":7,"chain":"audit/0","evidence":{"a":"1","b":"2"},'
        '"outcome":"done","subject":"vm-1","what":"moved \\u00fc"}]'
    )
    assert hash_of(entry) == hashlib.sha256(text.encode()).hexdigest()


@settings(deadline=None)
@given(st.one_of(JOURNAL_ENTRIES, AUDIT_ENTRIES), st.one_of(JOURNAL_ENTRIES, AUDIT_ENTRIES))
def test_different_entries_have_different_hashes(first: Entry, second: Entry) -> None:
    assert (hash_of(first) == hash_of(second)) == (first == second)
