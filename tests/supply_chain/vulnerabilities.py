"""Known vulnerabilities of what the locks name, as far as a registry tells them: pip-audit asks.

Three things may come of it: nothing is known, something is (a finding, unless it is let be for a while), or nobody
could say. The last is told in a line and fails nothing: a registry that is out of reach, or a mirror that carries no
advisories, is no news about a package.

What was answered is kept for a day and what could not be asked for an hour, below `$XDG_CACHE_HOME`.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

__all__ = ["LET_BE", "Audit", "LetBe", "Vulnerability", "audit", "findings", "understood"]

_DAY_S, _HOUR_S = 86_400.0, 3_600.0
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class LetBe:
    """A vulnerability that does not concern us, or that there is no cure for yet."""

    package: str
    reason: str
    until: date
    """From the next day on it is a finding again."""


LET_BE: Mapping[str, LetBe] = {}
"""By the advisory's id, or one of its aliases."""


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """One advisory about one package. `fixed_in`: the versions that have it no more."""

    package: str
    version: str
    names: tuple[str, ...]
    """The advisory's id, and its aliases."""
    fixed_in: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """What a registry knows. `unknown`: the packages that it says nothing of; `why`: nothing could be asked at all."""

    found: tuple[Vulnerability, ...] = ()
    asked: int = 0
    unknown: tuple[str, ...] = ()
    why: str = ""

    @property
    def answered(self) -> bool:
        """Whether anything was told about any package."""
        return not self.why and len(self.unknown) < self.asked


def audit(locks: Sequence[Path], cache: Path, *, osv_url: str = "") -> Audit:
    """What is known about the packages of these locks; from the cache, where that is new enough.

    `osv_url`: where to ask instead of the package registry, by OSV's own interface.
    """
    key = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks) + osv_url.encode()).hexdigest()[:32]
    kept = cache / f"{key}.json"
    if (known := _kept(kept)) is not None:
        return known
    service = ("--vulnerability-service", "osv", "--osv-url", osv_url) if osv_url else ()
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--disable-pip"]
    command += ["--require-hashes", *service, *(word for lock in locks for word in ("--requirement", str(lock)))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Audit(why=f"no answer within {_TIMEOUT_S:g} s")
    text = done.stdout
    answer = understood(text) if text.strip() else Audit(why=_last(done.stderr) or f"exit code {done.returncode}")
    if not answer.why:
        cache.mkdir(parents=True, exist_ok=True)
        new = kept.with_suffix(f".{os.getpid()}")
        new.write_text(text)
        new.replace(kept)
    return answer


def understood(text: str) -> Audit:
    """What pip-audit's JSON says."""
    try:
        told: list[dict[str, Any]] = json.loads(text)["dependencies"]
        # A package that stands in two locks is told twice.
        by_name = {each["name"]: each for each in told}
        found = tuple(
            Vulnerability(
                each["name"],
                each["version"],
                (known["id"], *sorted(known.get("aliases", ()))),
                tuple(known.get("fix_versions", ())),
            )
            for each in by_name.values()
            for known in each.get("vulns", ())
        )
        unknown = tuple(name for name, each in by_name.items() if "skip_reason" in each)
    except (KeyError, TypeError, ValueError) as error:
        return Audit(why=f"pip-audit's answer cannot be understood ({error!r})")
    return Audit(found, len(by_name), unknown)


def findings(found: Iterable[Vulnerability], today: date, let_be: Mapping[str, LetBe] = LET_BE) -> Iterator[str]:
    """The vulnerabilities that are not let be, and what is let be for longer than was said."""
    seen: set[str] = set()
    for each in found:
        name = next((name for name in each.names if name in let_be), "")
        seen.add(name)
        cure = f"update to {' or '.join(each.fixed_in)}" if each.fixed_in else "no release cures it yet"
        if not name or let_be[name].package != each.package:
            yield f"{each.package} {each.version} has {' = '.join(each.names)}: {cure}, or name it in LET_BE with why"
        elif today > let_be[name].until:
            yield f"{name} of {each.package} was let be until {let_be[name].until}: look again; {cure}"


def _kept(path: Path) -> Audit | None:
    try:
        age_s = time.time() - path.stat().st_mtime
        answer = understood(path.read_text())
    except OSError:
        return None
    lasts_s = _DAY_S if answer.answered else _HOUR_S
    return answer if 0 <= age_s < lasts_s and not answer.why else None


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
