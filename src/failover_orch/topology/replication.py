"""Replication settings of a cluster in a topology file: by their names and in the texts of the settings catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from failover_orch.domain.inventory import ClusterInventory
from failover_orch.domain.replication_settings import SettingsChange, SettingsScope
from failover_orch.domain.settings_catalogue import find_setting, settings_of
from failover_orch.domain.settings_rules import merge_settings
from failover_orch.errors import ConfigError
from failover_orch.yaml_reading import Entry

__all__ = ["ReplicationDraft", "check_replication", "read_replication"]

_KEYS = tuple(setting.name for setting in settings_of(SettingsScope.CLUSTER))
_SOMEBODY = "a topology file"
"""Stands for whoever applies the file, and for why: only they can say."""


@dataclass(frozen=True, slots=True)
class ReplicationDraft:
    """The `replication` of a cluster as written, each setting read by itself."""

    change: SettingsChange
    entry: Entry


def read_replication(cluster: Entry, name: str) -> ReplicationDraft | None:
    """Read the `replication` of a cluster's entry; None where it has none."""
    entry = cluster.entry("replication", _KEYS)
    if entry is None:
        return None
    changes: dict[str, str] = {}
    for key in filter(entry.has, _KEYS):
        text = entry.text(key)
        try:
            find_setting(SettingsScope.CLUSTER, key).parse(text)
        except ConfigError as error:
            entry.mistake(key, str(error))
        else:
            changes[key] = text
    return ReplicationDraft(SettingsChange(SettingsScope.CLUSTER, name, changes, _SOMEBODY, _SOMEBODY, 0), entry)


def check_replication(drafts: Iterable[ReplicationDraft], clusters: Sequence[ClusterInventory]) -> None:
    """Note what does not go together, the settings that the file leaves out being as they are by default."""
    for draft in drafts:
        for finding in merge_settings(None, draft.change, clusters).findings:
            key = finding.setting if draft.entry.has(finding.setting) else ""
            if key:
                draft.entry.mistake(key, finding.message)
            else:
                draft.entry.notes.mistake(draft.entry.line, draft.entry.where, finding.message)
