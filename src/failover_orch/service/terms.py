"""The terms of a failover as people write them: from which recovery point, when it is committed.

The command line and the HTTP service take the same words and say the same of wrong ones, as options.
"""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum

from failover_orch.domain import LATEST, CommitPolicy, PointChoice, WantedPoint
from failover_orch.errors import ConfigError

__all__ = ["LATEST_WORD", "Committing", "committing", "keeping", "wanted_point"]

LATEST_WORD = "latest"
_WORDS = {"": LATEST, LATEST_WORD: LATEST, "app-consistent": WantedPoint(PointChoice.APPLICATION_CONSISTENT)}
_AGE = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_UNTIL_TOLD = "until-told"
_LONGEST_S = 30 * 86_400


def wanted_point(recovery_point: str, before: str, now_ms: int) -> WantedPoint:
    """The recovery point that `--recovery-point` and `--before` ask for.

    Raises:
        ConfigError: both are given, or `before` is no time with its zone, no age, or lies in the future.

    """
    if before and recovery_point:
        raise ConfigError("--before and --recovery-point both name a recovery point: give one of the two")
    if before:
        return WantedPoint(PointChoice.BEFORE, at_ms=_time_ms(before, now_ms))
    if recovery_point and not recovery_point.strip():
        raise ConfigError("--recovery-point is empty: give latest, app-consistent or the id of a recovery point")
    return _WORDS.get(recovery_point, WantedPoint(PointChoice.NAMED, point_id=recovery_point))


def _time_ms(text: str, now_ms: int) -> int:
    age = _AGE.fullmatch(text)
    if age is not None:
        return max(1, now_ms - int(age.group(1)) * _UNITS_MS[age.group(2)])
    expected = "a time with its zone such as 2026-11-23T10:00:00Z, or an age such as 90s, 15m, 2h or 1d"
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--before is {text!r}: give {expected}") from None
    if at.tzinfo is None:
        raise ConfigError(f"--before is {text!r}, which does not say its zone: give {expected}")
    try:
        at_ms = round(at.timestamp() * 1000)
    except OverflowError:  # of the year 1 or 9999, beyond it by the zone
        at_ms = 0
    if not 0 < at_ms <= now_ms:
        raise ConfigError(f"--before is {text!r}, which is not in the past: give {expected}")
    return at_ms


class Committing(StrEnum):
    """What `--commit` takes, and the field `commit` of a request over HTTP."""

    AT_ONCE = "at-once"
    HOLD = "hold"
    AUTO_COMMIT = "auto-commit"
    AUTO_ROLLBACK = "auto-rollback"


_POLICIES = {
    Committing.AT_ONCE: CommitPolicy.AT_ONCE,
    Committing.HOLD: CommitPolicy.HOLD,
    Committing.AUTO_COMMIT: CommitPolicy.AUTO_COMMIT,
    Committing.AUTO_ROLLBACK: CommitPolicy.AUTO_ROLL_BACK,
}
_TIMED = (Committing.AUTO_COMMIT, Committing.AUTO_ROLLBACK)


def committing(commit: Committing | None, window_s: int) -> tuple[CommitPolicy, int]:
    """The commit policy and its window in milliseconds that `--commit` and `--window` ask for.

    Raises:
        ConfigError: one of the two needs the other.

    """
    if commit in _TIMED and not window_s:
        raise ConfigError(f"--commit {commit} needs a --window: the seconds in which people may decide otherwise")
    if commit not in _TIMED and window_s:
        raise ConfigError(f"--window is for --commit {' or '.join(_TIMED)} alone: give one of them, or leave it out")
    return _POLICIES[commit or Committing.AT_ONCE], window_s * 1000


def keeping(keep: str) -> tuple[CommitPolicy, int]:
    """How a test copy is kept, as the commit policy and the window that `--keep` asks for. Empty: not at all.

    Raises:
        ConfigError: it is neither a number of seconds nor `until-told`.

    """
    if not keep:
        return CommitPolicy.AT_ONCE, 0
    if keep == _UNTIL_TOLD:
        return CommitPolicy.HOLD, 0
    if not (keep.isascii() and keep.isdigit()) or not 0 < int(keep) <= _LONGEST_S:
        raise ConfigError(f"--keep is {keep!r}: give a number of seconds from 1 to {_LONGEST_S}, or {_UNTIL_TOLD}")
    return CommitPolicy.AUTO_COMMIT, int(keep) * 1000
