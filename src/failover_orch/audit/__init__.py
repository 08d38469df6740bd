"""The audit trail: reading it from Kafka, verifying its hash chains, exporting it, and reporting on runs from it.

The rules of the chains are in `domain.chain`; entries are sealed where they are written, in the workers' transactions.
"""

from failover_orch.audit.export import export, verify_file
from failover_orch.audit.report import ChainSummary, Report
from failover_orch.audit.run_document import html_of, markdown_of
from failover_orch.audit.run_report import RunReport, report_of
from failover_orch.audit.run_story import RunStory, StoryLine, TaskLine, story_of
from failover_orch.audit.run_trail import RunTrail, read_journal, read_run_trail
from failover_orch.audit.trail import verify_topics

__all__ = [
    "ChainSummary",
    "Report",
    "RunReport",
    "RunStory",
    "RunTrail",
    "StoryLine",
    "TaskLine",
    "export",
    "html_of",
    "markdown_of",
    "read_journal",
    "read_run_trail",
    "report_of",
    "story_of",
    "verify_file",
    "verify_topics",
]
