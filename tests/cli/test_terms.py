"""The terms of a failover, and rules of approval, as options: what they mean, and what is said of wrong ones."""

from __future__ import annotations

import pytest

from failover_orch.cli.approvals import EXAMPLE, approval_rule, spelled
from failover_orch.cli.terms import Committing, committing, keeping, wanted_point
from failover_orch.domain import LATEST, ApprovalRule, CommitPolicy, FailoverKind, PointChoice, WantedPoint
from failover_orch.errors import ConfigError

NOW = 1_800_000_000_000


@pytest.mark.parametrize(
    ("recovery_point", "before", "wanted"),
    [
        ("latest", "", LATEST),
        ("app-consistent", "", WantedPoint(PointChoice.APPLICATION_CONSISTENT)),
        ("7f3a", "", WantedPoint(PointChoice.NAMED, point_id="7f3a")),
        ("", "", LATEST),
        ("", "90s", WantedPoint(PointChoice.BEFORE, at_ms=NOW - 90_000)),
        ("", "15m", WantedPoint(PointChoice.BEFORE, at_ms=NOW - 900_000)),
        ("", "1d", WantedPoint(PointChoice.BEFORE, at_ms=NOW - 86_400_000)),
        ("", "2026-11-23T10:00:00Z", WantedPoint(PointChoice.BEFORE, at_ms=1_795_428_000_000)),
        ("", "2026-11-23T12:00:00+02:00", WantedPoint(PointChoice.BEFORE, at_ms=1_795_428_000_000)),
    ],
)
def test_a_recovery_point_is_named_in_words_by_id_time_or_age(
    recovery_point: str, before: str, wanted: WantedPoint
) -> None:
    assert wanted_point(recovery_point, before, NOW) == wanted


@pytest.mark.parametrize(
    ("recovery_point", "before", "message"),
    [
        ("app-consistent", "15m", "both name a recovery point"),
        (" ", "", "--recovery-point is empty"),
        ("latest", "15m", "both name a recovery point"),
        ("", "2026-11-23T10:00:00", "does not say its zone"),
        ("", "2036-11-23T10:00:00Z", "is not in the past"),
        ("", "0m", "--before is '0m': give a time with its zone"),
        ("", "yesterday", "--before is 'yesterday': give a time with its zone"),
    ],
)
def test_a_recovery_point_that_is_none_is_said(recovery_point: str, before: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        wanted_point(recovery_point, before, NOW)


def test_commit_and_window_belong_together() -> None:
    assert committing(None, 0) == (CommitPolicy.AT_ONCE, 0)
    assert committing(Committing.HOLD, 0) == (CommitPolicy.HOLD, 0)
    assert committing(Committing.AUTO_COMMIT, 60) == (CommitPolicy.AUTO_COMMIT, 60_000)
    assert committing(Committing.AUTO_ROLLBACK, 60) == (CommitPolicy.AUTO_ROLL_BACK, 60_000)
    with pytest.raises(ConfigError, match="--commit auto-rollback needs a --window"):
        committing(Committing.AUTO_ROLLBACK, 0)
    for commit in (None, Committing.AT_ONCE, Committing.HOLD):
        with pytest.raises(ConfigError, match="--window is for --commit auto-commit or auto-rollback alone"):
            committing(commit, 60)


@pytest.mark.parametrize("keep", ["0", "-5", "soon", "99999999", "٣"])
def test_a_test_copy_is_kept_for_seconds_or_until_told(keep: str) -> None:
    with pytest.raises(ConfigError, match="give a number of seconds from 1 to 2592000, or until-told"):
        keeping(keep)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("1", ApprovalRule(1)),
        ("1 of anybody", ApprovalRule(1)),
        ("2 of ann, bob ,carl", ApprovalRule(2, ("ann", "bob", "carl"))),
        ("1 to dr", ApprovalRule(1, to_site="dr")),
        (
            EXAMPLE,
            ApprovalRule(
                2, ("ann", "bob", "carl"), (FailoverKind.PLANNED, FailoverKind.FAILBACK), "dr", within_ms=3_600_000
            ),
        ),
        ("1 for unplanned within 60", ApprovalRule(1, kinds=(FailoverKind.UNPLANNED,), within_ms=60_000)),
    ],
)
def test_a_rule_of_approval_is_read_and_written(text: str, rule: ApprovalRule) -> None:
    assert approval_rule(text) == rule
    assert approval_rule(spelled(rule)) == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ann and bob", "is not written as expected"),
        ("", "is not written as expected"),
        ("2 for planned of ann,bob", "is not written as expected"),
        ("0 of ann", "asks for 0 people; from 1 to 20"),
        ("3 of ann,bob", "asks for 3 people and names 2"),
        ("2 of ann,ann", "lists people twice"),
        ("1 of ann,,bob", "leaves one out between commas"),
        ("1 for moving", "names the kind 'moving'; kinds are planned, unplanned, test, reprotect, failback"),
        ("1 within 0", "gives 0 s"),
    ],
)
def test_a_rule_that_is_none_is_one_sentence_with_an_example(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        approval_rule(text)
    assert message in str(raised.value)
    assert EXAMPLE in str(raised.value)
    assert "\n" not in str(raised.value)
