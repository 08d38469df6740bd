"""What an audit found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from failover_orch.domain import ChainHead
from failover_orch.domain.chain import ChainFinding, Link, verify
from failover_orch.errors import AuditBroken

__all__ = ["ChainSummary", "Report", "report_on"]


@dataclass(frozen=True, slots=True)
class ChainSummary:
    """A chain in numbers: entries read, sequence of the last one according to the task's state, findings."""

    chain: str
    entries: int
    last_sequence: int
    findings: int


@dataclass(frozen=True, slots=True)
class Report:
    """Every chain, and everything that is wrong with any."""

    chains: tuple[ChainSummary, ...]
    findings: tuple[ChainFinding, ...]

    @property
    def sound(self) -> bool:
        """Nothing was found."""
        return not self.findings

    def require_sound(self) -> None:
        """Pass where nothing was found.

        Raises:
            AuditBroken: something was; names the first findings.

        """
        if self.findings:
            shown = "; ".join(map(str, self.findings[:3]))
            more = f"; and {len(self.findings) - 3} more" if len(self.findings) > 3 else ""  # noqa: PLR2004 - as above
            raise AuditBroken(f"the audit trail does not verify: {shown}{more}")


def report_on(
    links: Collection[Link],
    heads: Mapping[str, ChainHead],
    heads_after: Mapping[str, ChainHead],
    unreadable: Sequence[ChainFinding],
) -> Report:
    """Verify chains. `heads` were read before the entries, `heads_after` after them; both by chain."""
    findings = (*unreadable, *verify(links, heads.values(), heads_after.values()))
    entries = Counter(link.chain for link in links)
    found = Counter(finding.chain for finding in findings)
    return Report(
        chains=tuple(
            ChainSummary(
                chain, entries[chain], (heads_after.get(chain) or ChainHead.start(chain)).sequence, found[chain]
            )
            for chain in sorted(entries.keys() | heads.keys() | heads_after.keys())
        ),
        findings=findings,
    )
