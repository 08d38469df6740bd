"""The audit trail: reading it from Kafka, verifying its hash chains, and exporting it to be verified elsewhere.

The rules of the chains are in `domain.chain`; entries are sealed where they are written, in the workers' transactions.
"""

from failover_orch.audit.export import export, verify_file
from failover_orch.audit.report import ChainSummary, Report
from failover_orch.audit.trail import verify_topics

__all__ = ["ChainSummary", "Report", "export", "verify_file", "verify_topics"]
