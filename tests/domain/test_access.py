"""Roles, grants and their scopes; what becomes of tokens and of refusals in the audit trail."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover_orch.domain import (
    ALLOWED,
    AccessRefused,
    AccessRole,
    AccessToken,
    AuditEntry,
    Call,
    Decision,
    Grant,
    JournalEntry,
    Moment,
    Operation,
    Principal,
    State,
    decide,
    refusal,
    spelled_grant,
    token_after,
)

NOW = 1_700_000_000_000
TOKEN = AccessToken(
    token_id="a1b2",
    name="alice",
    grants=(Grant(AccessRole.OPERATOR, ("dr",), ("erp",)),),
    sha256="0" * 64,
    actor="root",
    reason="on call",
    created_at_ms=NOW,
    expires_at_ms=NOW + 1_000,
)
REVOKED = replace(TOKEN, actor="bob", reason="lost", revoked_at_ms=NOW + 500)
SITES = st.frozensets(st.sampled_from(["primary", "dr", "third"]))
PLANS = st.frozensets(st.sampled_from(["erp", "crm"]))


def test_every_role_and_every_operation_has_its_place_in_the_table() -> None:
    assert set(ALLOWED) == set(AccessRole)
    assert frozenset().union(*ALLOWED.values()) == frozenset(Operation)


def test_nobody_both_asks_and_approves() -> None:
    asking = {Operation.FAIL_OVER, Operation.TEST, Operation.STEER}
    assert not [role for role in AccessRole if Operation.APPROVE in ALLOWED[role] and ALLOWED[role] & asking]


@given(
    st.sampled_from(list(AccessRole)),
    SITES,
    PLANS,
    st.builds(Call, st.sampled_from(list(Operation)), SITES, PLANS),
)
def test_a_call_is_allowed_where_the_role_has_it_and_the_grant_meets_it(
    role: AccessRole, sites: frozenset[str], plans: frozenset[str], call: Call
) -> None:
    why = refusal(Principal("alice", (Grant(role, tuple(sites), tuple(plans)),)), call)
    whole = not sites and not plans
    meets = whole or bool(sites & call.sites) or bool(plans & call.plans)
    assert (not why) == (call.operation in ALLOWED[role] and meets)
    if why:
        rule = "X1" if call.operation not in ALLOWED[role] else "X2" if call.sites or call.plans else "X3"
        assert why.startswith(f"{rule}: alice ")


def test_one_grant_of_several_is_enough_but_they_do_not_mix() -> None:
    alice = Principal("alice", (Grant(AccessRole.VIEWER), Grant(AccessRole.OPERATOR, ("dr",))))
    assert not refusal(alice, Call(Operation.LOOK))
    assert not refusal(alice, Call(Operation.TEST, frozenset({"dr"})))
    # The viewer's grant is for everything, the operator's is not.
    assert refusal(alice, Call(Operation.TEST, frozenset({"primary"}))).startswith("X2: ")


def test_a_principal_without_grants_may_nothing() -> None:
    assert refusal(Principal("alice", ()), Call(Operation.LOOK)).startswith("X1: alice has no role")


@pytest.mark.parametrize(
    ("grant", "text"),
    [
        (Grant(AccessRole.VIEWER), "VIEWER"),
        (Grant(AccessRole.OPERATOR, ("dr", "b"), ("erp",)), "OPERATOR for site dr, site b, plan erp"),
    ],
)
def test_a_grant_is_spelled_as_people_read_it(grant: Grant, text: str) -> None:
    assert spelled_grant(grant) == text


@pytest.mark.parametrize(
    ("known", "said", "rule"),
    [
        (None, replace(TOKEN, token_id=""), "X4"),
        (None, replace(TOKEN, grants=()), "X4"),
        (None, replace(TOKEN, sha256="secret"), "X4"),
        (None, replace(TOKEN, expires_at_ms=NOW), "X4"),
        (TOKEN, replace(TOKEN, sha256="1" * 64), "X5"),
        (TOKEN, replace(TOKEN, grants=(Grant(AccessRole.ADMINISTRATOR),)), "X5"),
        (TOKEN, replace(TOKEN, expires_at_ms=NOW + 9_000), "X5"),
        (REVOKED, TOKEN, "X6"),
    ],
)
def test_a_token_is_never_changed_and_never_comes_back(known: AccessToken | None, said: AccessToken, rule: str) -> None:
    after = token_after(known, said)
    assert (after.rule, after.token, after.changed) == (rule, known, False)
    assert after.why


def test_a_token_is_made_and_revoked_and_each_counts_once() -> None:
    assert token_after(None, TOKEN).token == TOKEN
    assert token_after(TOKEN, REVOKED).token == REVOKED
    assert not token_after(TOKEN, TOKEN).changed
    # Revoked again by somebody else: who was first stays.
    again = token_after(REVOKED, replace(REVOKED, actor="carl", revoked_at_ms=NOW + 900))
    assert (again.token, again.changed, again.rule) == (REVOKED, False, "")


def fold(state: dict[str, State], fact: AccessToken | AccessRefused) -> Decision:
    decision = decide(state, fact, Moment(NOW, 3))
    state.update({key: value for key, value in decision.kept.items() if value is not None})
    return decision


def audited(decision: Decision) -> list[AuditEntry]:
    return [output for output in decision.outputs if isinstance(output, AuditEntry)]


def test_who_got_and_lost_a_token_is_in_the_audit_trail_once() -> None:
    state: dict[str, State] = {}
    (made,) = audited(fold(state, TOKEN))
    assert (made.subject, made.what, made.outcome) == ("token/a1b2", "create access token", "accepted")
    assert (made.actor, made.reason) == ("root", "on call")
    assert made.evidence["grants"] == "OPERATOR for site dr, plan erp"
    assert made.evidence["name"] == "alice"
    assert not fold(state, TOKEN).outputs
    (lost,) = audited(fold(state, REVOKED))
    assert (lost.what, lost.outcome, lost.actor, lost.reason) == ("revoke access token", "accepted", "bob", "lost")
    assert not fold(state, REVOKED).outputs


def test_the_digest_of_a_token_is_not_in_the_audit_trail() -> None:
    (made,) = audited(fold({}, TOKEN))
    assert TOKEN.sha256 not in repr(made)


def test_a_token_brought_back_is_refused_in_journal_and_audit_trail() -> None:
    state: dict[str, State] = {}
    fold(state, TOKEN)
    fold(state, REVOKED)
    decision = fold(state, TOKEN)
    assert decision.refused == ("X6",)
    assert [output.rule for output in decision.outputs if isinstance(output, JournalEntry)] == ["X6"]
    assert [entry.outcome for entry in audited(decision)] == ["refused"]
    assert state["token/a1b2"] == REVOKED


@pytest.mark.parametrize(
    ("who", "address", "subject"),
    [("alice", "10.0.0.9", "alice"), ("", "10.0.0.9", "10.0.0.9"), ("", "", "(unknown address)")],
)
def test_refused_calls_are_in_the_audit_trail(who: str, address: str, subject: str) -> None:
    refused = AccessRefused(who, address, "FAIL_OVER", "X1: no", NOW - 60_000, NOW, 17)
    (entry,) = audited(fold({}, refused))
    assert (entry.subject, entry.what, entry.outcome, entry.actor) == (subject, "FAIL_OVER", "refused", who)
    assert entry.evidence == {
        "why": "X1: no",
        "address": address,
        "times": "17",
        "since_ms": str(NOW - 60_000),
        "until_ms": str(NOW),
    }
