"""A little of everything that a service may know: VMs, plans, runs, clusters with settings, policies, tokens."""

from __future__ import annotations

from failover_orch.domain import (
    AccessRole,
    AccessToken,
    Adapter,
    AdapterAddresses,
    AdapterKind,
    AuthorizationEntry,
    AutomaticMode,
    Brake,
    ClusterInventory,
    FailoverKind,
    FamilyAddresses,
    Grant,
    Guest,
    HealthChange,
    Location,
    Node,
    NodeState,
    Policy,
    PolicyScope,
    Readiness,
    RecoveryGroup,
    RecoveryPlan,
    Replication,
    ReplicationHealth,
    ReplicationServer,
    ReplicationState,
    Role,
    RouteCause,
    RoutingUpdate,
    RunSnapshot,
    RunState,
    SettingsRevision,
    SettingsScope,
    SettingsStanding,
    Standing,
    StepProgress,
    StepState,
    Storage,
    VmInventory,
    VmReplicationSettings,
)

BROKER = "broker.dr.example"
PRIMARY_SERVER = "p1.primary.example"


def route(vm_id: str, node: str = "p1", epoch: int = 3, replica: str = "d1") -> RoutingUpdate:
    here = Location("primary", node, Role.PRIMARY, 10, "p-c", "/csv/1")
    there = Location("dr", replica, Role.REPLICA, 5, "dr-c", "/csv/1")
    return RoutingUpdate(vm_id, epoch, RouteCause.LIVE, here, "p0", (there, here), 10)


def inventory(vm_id: str, name: str) -> VmInventory:
    return VmInventory(
        vm_id,
        name,
        (Adapter("nic0", AdapterKind.SYNTHETIC, "52:54:00:00:00:01", "lan", ("10.1.0.5/24",)),),
        Guest("debian-12"),
        Replication(ReplicationState.REPLICATING, "primary", "dr", "p-c", "dr-c"),
        memory_mib=1_024,
        storage_gib=10,
        application="erp",
    )


def cluster(name: str, site: str, *nodes: str) -> ClusterInventory:
    storage = (Storage("/csv/1", 1_000, 900), Storage("/csv/2", 1_000, 900))
    made = tuple(Node(node, NodeState.UP, 65_536, 60_000, 16, storage) for node in nodes)
    return ClusterInventory(name, site, BROKER if site == "dr" else f"broker.{site}.example", made, reported_at_ms=1)


def run(run_id: str, vm_id: str = "v1", state: RunState = RunState.RUNNING, plan_id: str = "") -> RunSnapshot:
    steps = (StepProgress("P1", StepState.DONE, 1, "", 5, 6),)
    parent = run_id.rpartition("/")[0]
    return RunSnapshot(
        run_id,
        FailoverKind.PLANNED,
        state,
        vm_id,
        steps,
        "carol",
        "drill",
        5,
        0,
        plan_id=plan_id,
        parent_run_id=parent,
        choices=("RESUME", "ABANDON") if state is RunState.PARKED else (),
    )


ACCEPTS = ReplicationServer(
    enabled=True,
    authorization=(AuthorizationEntry("*.primary.example", "/csv/2", "gold"),),
    http_port=8_080,
)
REVISION = SettingsRevision(
    SettingsScope.CLUSTER, "dr-c", 1, ("enabled", "authorization", "http_port"), "alice", "go", 7, server=ACCEPTS
)
WORLD: tuple[object, ...] = (
    route("v1"),
    route("v2", node="p2", epoch=1),
    inventory("v1", "erp-db"),
    inventory("v2", "erp-app"),
    VmReplicationSettings("v1", (AdapterAddresses("nic0", FamilyAddresses(addresses=("10.9.0.5/24",))),)),
    HealthChange(
        "v1",
        ReplicationHealth.CRITICAL,
        ReplicationHealth.NORMAL,
        ("H5: nothing received",),
        11,
        Readiness.AT_RISK,
        Readiness.READY,
        ("D3: replication health is Critical (H5: nothing received)",),
    ),
    RecoveryPlan("plan-1", "ERP", (RecoveryGroup("db", ("v1",)), RecoveryGroup("app", ("v2",)))),
    cluster("dr-c", "dr", "d1", "d2"),
    cluster("p-c", "primary", "p1", "p2"),
    REVISION,
    *(SettingsStanding(SettingsScope.CLUSTER, "dr-c", node, Standing.IN_SYNC, 1, 1, 8) for node in ("d1", "d2")),
    Policy(PolicyScope.ALL, mode=AutomaticMode.ADVISE),
    Policy(PolicyScope.PLAN, "plan-1", rpo_ms=60_000),
    Brake(False, "alice", "drill over", 7),
    run("r1", state=RunState.PARKED),
    run("r2", vm_id="", plan_id="plan-1"),
    run("r2/v1", plan_id="plan-1"),
    run("r3", state=RunState.AWAITING_APPROVAL),
    run("r4", state=RunState.AWAITING_COMMIT),
    AccessToken(
        "0123456789ab", "eve", (Grant(AccessRole.VIEWER, ("dr",)),), "0" * 64, "alice", "look", 1, 4_000_000_000_000
    ),
)
