"""The catalogue of replication settings: one table of every setting, how it is called, and what it takes.

Names, ranges and defaults are those of Set-VMReplicationServer, New-VMReplicationAuthorizationEntry, Set-VMReplication,
Start-VMInitialReplication and the classes Msvm_ReplicationServiceSettingData and Msvm_ReplicationSettingData. Which
settings go together, `settings_rules` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from failover_orch.domain.replication_settings import (
    AcceptedAuthentication,
    InitialReplication,
    OnDrift,
    ReplicationServer,
    SettingsRevision,
    SettingsScope,
    VmReplication,
)
from failover_orch.domain.settings_forms import (
    AUTHORIZATION,
    DISKS,
    FLAG,
    INSTANT,
    LOCATION,
    NAME,
    PORT,
    PORT_MAP,
    THUMBPRINT,
    TIME_OF_DAY,
    Form,
    choice,
    duration,
    number,
)
from failover_orch.errors import ConfigError

__all__ = [
    "ON_DRIFT",
    "SETTINGS",
    "Setting",
    "find_setting",
    "setting_texts",
    "settings_differences",
    "settings_of",
    "value_in",
]

_HOUR_S, _DAY_S = 3600, 86_400
_INTERVALS_S = tuple(hours * _HOUR_S for hours in (1, 2, 3, 4, 6, 8, 12, 24)) + tuple(n * _DAY_S for n in range(2, 8))
EXTENDED_FREQUENCIES_S = (300, 900)
_MOST_RECOVERY_POINTS = 24
_LONGEST_VSS_HOURS = 12

ON_DRIFT = "on_drift"
_DEFAULTS: Mapping[SettingsScope, ReplicationServer | VmReplication] = {
    SettingsScope.CLUSTER: ReplicationServer(),
    SettingsScope.VM: VmReplication(),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `known_as` is what Microsoft calls it, empty for our own; `takes` its range, as a sentence."""

    name: str
    scope: SettingsScope
    known_as: str
    takes: str
    form: Form
    once: bool = False
    """It says how replication begins, and cannot be read back once it has."""

    @property
    def default(self) -> Any:
        return OnDrift.ALERT if self.name == ON_DRIFT else getattr(_DEFAULTS[self.scope], self.name)

    @property
    def default_text(self) -> str:
        return self.form.write(self.default)

    def parse(self, text: str) -> Any:
        """The value that a text means; an empty one the default.

        Raises:
            ConfigError: it is none that this setting takes.

        """
        stripped = text.strip()
        return self.form.parse(stripped) if stripped else self.default

    def write(self, value: Any) -> str:
        """The text that means a value."""
        return self.form.write(value)

    def of(self, settings: ReplicationServer | VmReplication) -> Any:
        """The value that this setting has; `on_drift` is the broker's own and stands in the revision alone."""
        return getattr(settings, self.name)

    def same(self, one: Any, other: Any) -> bool:
        """Whether two values mean the same."""
        return bool(self.form.canonical(one) == self.form.canonical(other))


def _cluster(name: str, known_as: str, takes: str, form: Form) -> Setting:
    return Setting(name, SettingsScope.CLUSTER, known_as, takes, form)


def _vm(name: str, known_as: str, takes: str, form: Form, *, once: bool = False) -> Setting:
    return Setting(name, SettingsScope.VM, known_as, takes, form, once)


_ON_DRIFT = "ALERT: people are told where a node has others; CORRECT: they are also set again, up to 3 times an hour"
_ON_DRIFT_VM = "ALERT: people are told where the VM has others; CORRECT: they are also set again, up to 3 times an hour"

SETTINGS: tuple[Setting, ...] = (
    _cluster("enabled", "ReplicationEnabled", "whether the nodes accept replicas: true or false", FLAG),
    _cluster(
        "authentication",
        "AllowedAuthenticationType",
        "how a primary server proves who it is: Kerberos (over HTTP), Certificate (over HTTPS) or "
        "CertificateAndKerberos",
        choice(AcceptedAuthentication),
    ),
    _cluster("http_port", "KerberosAuthenticationPort", "a port, 1 to 65535", PORT),
    _cluster("https_port", "CertificateAuthenticationPort", "a port, 1 to 65535", PORT),
    _cluster(
        "http_port_map",
        "KerberosAuthenticationPortMapping",
        "node=port for each node and the broker, each with a port of its own; empty: http_port everywhere",
        PORT_MAP,
    ),
    _cluster(
        "https_port_map",
        "CertificateAuthenticationPortMapping",
        "node=port for each node and the broker, each with a port of its own; empty: https_port everywhere",
        PORT_MAP,
    ),
    _cluster(
        "certificate_thumbprint",
        "CertificateThumbprint",
        "up to 128 hexadecimal digits; each node needs a valid certificate for its own name and one for the broker's",
        THUMBPRINT,
    ),
    _cluster(
        "from_any_server",
        "ReplicationAllowedFromAnyServer",
        "whether every authenticated server may replicate here: true or false",
        FLAG,
    ),
    _cluster(
        "default_storage_location",
        "DefaultStorageLocation",
        "an absolute path on storage that all nodes share, where replicas from any server go",
        LOCATION,
    ),
    _cluster(
        "authorization",
        "AllowedPrimaryServer, ReplicaStorageLocation, TrustGroup",
        "primary server|storage location|trust group for each server or its broker, separated by semicolons; a "
        "wildcard only as the first label",
        AUTHORIZATION,
    ),
    _cluster(
        "monitoring_interval_s",
        "MonitoringInterval",
        "1, 2, 3, 4, 6, 8, 12 or 24 hours, or 2 to 7 days",
        duration(_INTERVALS_S),
    ),
    _cluster("monitoring_start_minute", "MonitoringStartTime", "a time of day, the node's local time", TIME_OF_DAY),
    _cluster(ON_DRIFT, "", _ON_DRIFT, choice(OnDrift)),
    _vm("frequency_s", "ReplicationFrequencySec", "30 seconds, 5 or 15 minutes", duration((30, 300, 900))),
    _vm(
        "recovery_points",
        "RecoveryHistory",
        "0 to 24 hourly recovery points beside the latest",
        number(0, _MOST_RECOVERY_POINTS),
    ),
    _vm(
        "application_consistent_hours",
        "VSSSnapshotFrequencyHour",
        "every 1 to 12 hours, 0 for none; not for an extended replica",
        number(0, _LONGEST_VSS_HOURS),
    ),
    _vm("compression", "CompressionEnabled", "true or false", FLAG),
    _vm("bypass_proxy", "BypassProxyServer", "true or false", FLAG),
    _vm("replicate_host_kvp_items", "ReplicateHostKvpItems", "true or false", FLAG),
    _vm("excluded_disks", "ExcludedVhd", "names of disks that are not replicated, separated by commas", DISKS),
    _vm(
        "initial_replication",
        "InitialReplicationMethod",
        "NETWORK: sent; EXPORT: on external media; EXISTING: a VM that is there already",
        choice(InitialReplication),
        once=True,
    ),
    _vm(
        "initial_start_at_ms",
        "InitialReplicationStartTime",
        "a time in UTC no later than 7 days from when it is set, or 'at once'",
        INSTANT,
        once=True,
    ),
    _vm("auto_resynchronize", "AutoResynchronizeEnabled", "true or false", FLAG),
    _vm(
        "resynchronize_from_minute",
        "AutoResynchronizeIntervalStart",
        "a time of day, local time; the window may pass midnight",
        TIME_OF_DAY,
    ),
    _vm("resynchronize_to_minute", "AutoResynchronizeIntervalEnd", "a time of day, local time", TIME_OF_DAY),
    _vm(
        "extended_to", "ReplicaServerName of the extended replication", "the cluster that the replica goes on to", NAME
    ),
    _vm(
        "extended_frequency_s",
        "ReplicationFrequencySec of the extended replication",
        "5 or 15 minutes, and no more often than the VM's own",
        duration(EXTENDED_FREQUENCIES_S),
    ),
    _vm(ON_DRIFT, "", _ON_DRIFT_VM, choice(OnDrift)),
)
"""Every setting, in the order in which they are shown. A name stands once in each scope."""

_BY_NAME = {(setting.scope, setting.name): setting for setting in SETTINGS}


def settings_of(scope: SettingsScope) -> tuple[Setting, ...]:
    """The settings of a scope."""
    return tuple(setting for setting in SETTINGS if setting.scope is scope)


def find_setting(scope: SettingsScope, name: str) -> Setting:
    """The setting of that name.

    Raises:
        ConfigError: there is none; names what may have been meant.

    """
    setting = _BY_NAME.get((scope, name))
    if setting is not None:
        return setting
    names = [setting.name for setting in settings_of(scope)]
    near = get_close_matches(name.lower().replace("-", "_"), names, n=1)
    meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
    kind = "cluster" if scope is SettingsScope.CLUSTER else "VM"
    raise ConfigError(f"{name!r} is no setting of a {kind}: {meant}")


def setting_texts(revision: SettingsRevision) -> dict[str, str]:
    """Every setting of a revision as text, by its name, in the order of the catalogue."""
    return {setting.name: setting.write(value_in(revision, setting)) for setting in settings_of(revision.scope)}


def value_in(revision: SettingsRevision | None, setting: Setting) -> Any:
    """The value of a setting in a revision; its default where there is none yet."""
    settings = None if revision is None else revision.server or revision.replication
    if revision is not None and setting.name == ON_DRIFT:
        return revision.on_drift
    return setting.default if settings is None else setting.of(settings)


def settings_differences(
    wanted: ReplicationServer | VmReplication, found: ReplicationServer | VmReplication
) -> dict[str, str]:
    """What differs, by the settings' names, as found. Both are of one kind.

    The order of entries and ports, the case of names and what is used once are no difference.
    """
    scope = SettingsScope.CLUSTER if isinstance(wanted, ReplicationServer) else SettingsScope.VM
    return {
        setting.name: setting.write(setting.of(found))
        for setting in settings_of(scope)
        if setting.name != ON_DRIFT and not setting.once and not setting.same(setting.of(wanted), setting.of(found))
    }
