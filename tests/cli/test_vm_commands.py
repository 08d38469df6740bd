"""`failover-orch vm`, `place` and `serve`, on a real Kafka; what `set-address` makes of its options, without one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import typer
from playing import Invoke, environment, invoking, publish, published, snapshot

from failover_orch.cli.addresses import AddressChange, FamilyChange
from failover_orch.cli.serve import serve
from failover_orch.cli.vm import app, place
from failover_orch.config import Settings
from failover_orch.domain import (
    Adapter,
    AdapterAddresses,
    AdapterKind,
    ClusterInventory,
    FailoverKind,
    Family,
    FamilyAddresses,
    Guest,
    HealthChange,
    IntegrationServices,
    Location,
    MoveKind,
    Node,
    NodeState,
    Readiness,
    RecoveryGroup,
    RecoveryPlan,
    Replication,
    ReplicationHealth,
    ReplicationState,
    Role,
    RouteCause,
    RoutingUpdate,
    RunState,
    Storage,
    UnsetAdapters,
    VmInventory,
    VmMoved,
    VmReplicationSettings,
)
from failover_orch.errors import ConfigError
from failover_orch.service import End

NIC0 = Adapter("nic0", AdapterKind.SYNTHETIC, "52:54:00:00:00:01", "prod", ("10.1.0.5/24",))
NIC1 = Adapter("nic1", AdapterKind.LEGACY, "52:54:00:00:00:02", "backup")
DB = VmInventory(
    "v1",
    "erp-db",
    (NIC0, NIC1),
    Guest("windows-server-2022", IntegrationServices.RUNNING),
    Replication(ReplicationState.REPLICATING, "primary", "dr", "p-c", "dr-c"),
    memory_mib=2048,
    cpus=2,
    storage_gib=20,
    application="erp",
)
WEB = replace(DB, vm_id="v2", name="erp-web", adapters=(NIC0,))
P2 = Location("primary", "p2", Role.PRIMARY, 1_700_000_000_000, "p-c", "/csv/9")
D1 = Location("dr", "d1", Role.REPLICA, 1_700_000_000_000, "dr-c", "/csv/1")
ROUTE = RoutingUpdate("v1", 3, RouteCause.LIVE, P2, "p1", (D1, P2), 1_700_000_000_000, "erp-db")
CLUSTER = ClusterInventory(
    "dr-c", "dr", "dr-broker", (Node("d1", NodeState.UP, 64_000, 60_000, 16, (Storage("/csv/1", 1_000, 900),)),)
)
STATIC = FamilyAddresses(addresses=("10.2.0.5/24",), gateways=("10.2.0.1",), dns=("10.2.0.2",))

cli = typer.Typer()
cli.add_typer(app, name="vm")
cli.command("place")(place)
cli.command("serve")(serve)


def change(**options: object) -> AddressChange:
    def family(family: Family, number: str) -> FamilyChange:
        parts = [options.get(f"{name}{number}", ()) for name in ("ipv", "gateway", "dns")]
        return FamilyChange(family, *parts)  # type: ignore[arg-type]  # tuples of text, all of them

    return AddressChange("nic0", family(Family.IPV4, "4"), family(Family.IPV6, "6"), actor="alice", at_ms=7)


@pytest.mark.parametrize(
    ("present", "options", "expected"),
    [
        (None, {"ipv4": ("10.2.0.5/24",)}, FamilyAddresses(addresses=("10.2.0.5/24",))),
        (None, {"ipv4": ("10.2.0.5/255.255.255.0",)}, FamilyAddresses(addresses=("10.2.0.5/24",))),
        (STATIC, {"ipv4": ("dhcp",)}, FamilyAddresses(dhcp=True)),
        (STATIC, {"ipv4": ("10.2.0.6/24",)}, FamilyAddresses(addresses=("10.2.0.6/24",))),
        (STATIC, {"dns4": ("10.2.0.3",)}, replace(STATIC, dns=("10.2.0.3",))),
        (STATIC, {"ipv6": ("2001:DB8::5/64",)}, STATIC),
        (STATIC, {}, STATIC),
    ],
)
def test_options_go_over_what_is_set(
    present: FamilyAddresses | None, options: dict[str, tuple[str, ...]], expected: FamilyAddresses
) -> None:
    other = AdapterAddresses("nic9", ipv4=FamilyAddresses(dhcp=True))
    before = VmReplicationSettings("v1", (other, AdapterAddresses("nic0", ipv4=present)), UnsetAdapters.KEEP)
    after = change(**options).over("v1", before)
    assert other in after.adapters
    assert [each.ipv4 for each in after.adapters if each.adapter_id == "nic0"] == [expected]
    assert (after.unset_adapters, after.actor, after.set_at_ms) == (UnsetAdapters.KEEP, "alice", 7)


def test_keep_drops_a_family_and_with_the_last_the_adapter() -> None:
    both = AdapterAddresses("nic0", STATIC, FamilyAddresses(dhcp=True))
    one = change(ipv4=("keep",)).over("v1", VmReplicationSettings("v1", (both,)))
    assert one.adapters == (AdapterAddresses("nic0", None, FamilyAddresses(dhcp=True)),)
    assert change(ipv6=("keep",)).over("v1", one).adapters == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ipv4": ("dhcp", "10.2.0.5/24")}, "--ipv4 dhcp stands alone"),
        ({"ipv6": ("keep",), "dns6": ("::1",)}, "--ipv6 keep takes no --gateway6 and no --dns6"),
        ({"gateway4": ("10.2.0.1",)}, "no IPv4 failover address yet: give --ipv4 as well"),
        ({"ipv4": ("10.2.0.555/24",)}, "10.2.0.555"),
    ],
)
def test_options_that_make_no_sense_are_said(options: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        change(**options).over("v1", None)


@pytest.fixture
def installation(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    return settings


@pytest.fixture
def invoke() -> Iterator[Invoke]:
    with invoking(cli) as invoke:
        yield invoke


def test_where_says_the_node_first(installation: Settings, invoke: Invoke) -> None:
    # The first inventory of a VM tells its primary's site before any node has spoken.
    nowhere = replace(ROUTE, vm_id="v2", changed=replace(P2, node=""), locations=(replace(P2, node=""),))
    publish(installation, DB, ROUTE, WEB, nowhere)
    assert invoke("vm", "where", "erp-db").stdout == "p2  primary  PRIMARY  /csv/9\nd1  dr  REPLICA  /csv/1\n"
    assert invoke("vm", "where", "v1", "--site", "dr").stdout == "d1  dr  REPLICA  /csv/1\n"
    shown = json.loads(invoke("vm", "where", "v1", "--json").stdout)
    assert (shown["node"], shown["epoch"]) == ("p2", 3)
    for asked, message in [
        (("erp-web",), "erp-web is known, but no node has reported it yet"),
        (("v1", "--site", "moon"), "no node of site moon has reported it yet"),
        (("erp-dp",), "no VM 'erp-dp' is known; did you mean erp-db"),
    ]:
        failed = invoke("vm", "where", *asked)
        assert failed.exit_code == 1
        assert message in failed.stderr
        assert failed.stdout == ""


def test_list_and_show(installation: Settings, invoke: Invoke) -> None:
    publish(installation, DB, ROUTE, WEB, VmReplicationSettings("v1", (AdapterAddresses("nic0", STATIC),)))
    listed = invoke("vm", "list").stdout
    assert "erp-db" in listed
    assert "erp-web" in listed
    vms = json.loads(invoke("vm", "list", "--node", "p2", "--json").stdout)["vms"]
    assert [(vm["name"], vm["replica_node"]) for vm in vms] == [("erp-db", "d1")]
    shown = invoke("vm", "show", "erp-db")
    assert shown.exit_code == 0, shown.output
    for word in ("nic1", "LEGACY", "10.1.0.5/24", "10.2.0.5/24; gateway 10.2.0.1; DNS 10.2.0.2", "/csv/9"):
        assert word in shown.stdout
    assert json.loads(invoke("vm", "show", "erp-db", "--json").stdout)["adapters"][0]["adapter_id"] == "nic0"


def test_set_address_publishes_what_the_rules_accept(installation: Settings, invoke: Invoke) -> None:
    publish(installation, DB, ROUTE, WEB)
    first = invoke(
        *("vm", "set-address", "erp-db", "--adapter", "nic0", "--ipv4", "10.2.0.5/24", "--gateway4", "10.2.0.1"),
        *("--dns4", "10.2.0.2", "--unset", "keep", "--actor", "alice", "--reason", "drill"),
    )
    assert first.exit_code == 0, first.output
    second = invoke("vm", "set-address", "v1", "--adapter", "nic0", "--ipv6", "2001:db8:2::5/64", "--actor", "bob")
    assert second.exit_code == 0, second.output
    before, after = published(installation, "replication-settings")
    assert isinstance(before, VmReplicationSettings)
    assert isinstance(after, VmReplicationSettings)
    assert before.adapters == (AdapterAddresses("nic0", STATIC),)
    assert (before.unset_adapters, before.actor, before.reason) == (UnsetAdapters.KEEP, "alice", "drill")
    assert after.adapters[0].ipv4 == STATIC
    assert after.adapters[0].ipv6 == FamilyAddresses(addresses=("2001:db8:2::5/64",))
    assert after.unset_adapters is UnsetAdapters.KEEP
    assert after.set_at_ms >= before.set_at_ms > 0


def test_set_address_refuses_before_it_publishes(installation: Settings, invoke: Invoke) -> None:
    publish(installation, DB, WEB, ROUTE, VmReplicationSettings("v2", (AdapterAddresses("nic0", STATIC),)))
    for arguments, message in [
        (("--adapter", "nic1", "--ipv4", "10.2.0.6/24"), "adapter nic1"),
        (("--adapter", "nic7", "--ipv4", "10.2.0.6/24"), "nic7"),
        (("--adapter", "nic0", "--ipv4", "10.2.0.5/24"), "10.2.0.5"),  # that is erp-web's
    ]:
        refused = invoke("vm", "set-address", "erp-db", *arguments)
        assert refused.exit_code == 1, refused.output
        assert message in refused.stderr
        assert "cannot be set for erp-db" in refused.stderr
    assert len(published(installation, "replication-settings")) == 1


@pytest.mark.parametrize("end", [End.HOME, End.TEST])
def test_each_end_has_addresses_of_its_own(end: End) -> None:
    there = AdapterAddresses("nic0", STATIC)
    before = VmReplicationSettings("v1", (there,), home_adapters=(there,), test_adapters=(there,))
    family = FamilyChange(Family.IPV4, ("10.9.0.5/24",))
    after = AddressChange("nic0", family, FamilyChange(Family.IPV6), end).over("v1", before)
    changed = (AdapterAddresses("nic0", FamilyAddresses(addresses=("10.9.0.5/24",))),)
    assert {each: getattr(after, each) for each in End} == dict.fromkeys(End, (there,)) | {end: changed}


def test_addresses_of_home_and_test_and_the_test_network_are_set_one_by_one(
    installation: Settings, invoke: Invoke
) -> None:
    publish(installation, DB, ROUTE, WEB)
    for arguments in (
        ("set-address", "erp-db", "--adapter", "nic0", "--ipv4", "10.1.0.5/24", "--home"),
        ("set-address", "erp-db", "--adapter", "nic0", "--ipv4", "10.99.0.5/24", "--test"),
        ("set-test-network", "erp-db", "bubble"),
    ):
        told = invoke("vm", *arguments, "--actor", "alice")
        assert told.exit_code == 0, told.output
    last = published(installation, "replication-settings")[-1]
    assert (last.adapters, last.test_network) == ((), "bubble")
    assert last.home_adapters[0].ipv4.addresses == ("10.1.0.5/24",)
    assert last.test_adapters[0].ipv4.addresses == ("10.99.0.5/24",)
    shown = invoke("vm", "show", "erp-db").stdout
    for word in ("back at home", "in a test copy", "10.99.0.5/24", "bubble"):
        assert word in shown
    assert invoke("vm", "set-test-network", "erp-db", "none").exit_code == 0
    assert published(installation, "replication-settings")[-1].test_network == ""


def test_test_copies_must_not_meet_anybody(installation: Settings, invoke: Invoke) -> None:
    copy = (AdapterAddresses("nic0", STATIC),)
    publish(installation, DB, WEB, ROUTE, VmReplicationSettings("v2", (), test_adapters=copy, test_network="bubble"))
    own = invoke("vm", "set-test-network", "erp-db", "prod")
    assert own.exit_code == 1
    assert "erp-db itself is on network prod (adapter nic0)" in own.stderr
    # In another isolated network the same address is nobody's concern.
    same = ("vm", "set-address", "erp-db", "--adapter", "nic0", "--ipv4", "10.2.0.5/24", "--test")
    assert invoke("vm", "set-test-network", "erp-db", "bubble-2").exit_code == 0
    assert invoke(*same).exit_code == 0
    together = invoke("vm", "set-test-network", "erp-db", "bubble")
    assert together.exit_code == 1
    assert "10.2.0.5" in together.stderr
    for options, message in (
        (("--home",), "--home and --test name two ends"),
        (("--unset", "keep"), "--unset is not for --test"),
    ):
        refused = invoke(*same, *options)
        assert refused.exit_code == 1
        assert message in refused.stderr


def test_readiness_is_listed_and_shown_with_what_to_do(installation: Settings, invoke: Invoke) -> None:
    drill = "D6: no test failover has ever succeeded; one is due every 90 days"
    change = HealthChange(
        "v1",
        ReplicationHealth.NORMAL,
        ReplicationHealth.NORMAL,
        (),
        9,
        Readiness.AT_RISK,
        Readiness.READY,
        (drill,),
        rpo_breach_at_ms=1_700_000_000_000,
    )
    test = snapshot(RunState.AWAITING_COMMIT, run_id="run-t", kind=FailoverKind.TEST)
    publish(installation, DB, ROUTE, change, test, RecoveryPlan("plan-1", "ERP", (RecoveryGroup("db", ("v1",)),)))
    assert "AT_RISK" in invoke("vm", "list").stdout
    shown = invoke("vm", "show", "erp-db").stdout
    for word in ("AT_RISK", drill, "failover-orch failover test", "RPO will be breached", "run-t", "plan-1"):
        assert word in shown, word
    (vm,) = json.loads(invoke("vm", "list", "--json").stdout)["vms"]
    assert (vm["readiness"], vm["defects"], vm["run_id"]) == ("AT_RISK", [drill], "")


def test_place_says_where_and_records_it(installation: Settings, invoke: Invoke) -> None:
    publish(installation, WEB, CLUSTER, DB, ROUTE)
    lives = invoke("place", "erp-db", "--record")
    assert lives.stdout.startswith("d1  dr  /csv/1\n")
    assert published(installation, "vm-moved") == []  # there already: nothing to record
    placed = invoke("place", "erp-web", "--record", "--actor", "alice")
    assert placed.exit_code == 0, placed.output
    assert placed.stdout.startswith("d1  dr  /csv/1\n")
    assert "anti_affinity" in placed.stdout
    (moved,) = published(installation, "vm-moved")
    assert isinstance(moved, VmMoved)
    assert (moved.vm_id, moved.site, moved.node, moved.storage) == ("v2", "dr", "d1", "/csv/1")
    assert (moved.kind, moved.cluster, moved.source) == (MoveKind.PLACED, "dr-c", "placed by alice")


def test_place_says_why_not(installation: Settings, invoke: Invoke) -> None:
    publish(installation, replace(WEB, memory_mib=999_999), CLUSTER)
    refused = invoke("place", "erp-web", "--record")
    assert refused.exit_code == 1
    assert "no node at site dr can take the replica" in refused.stdout
    assert json.loads(invoke("place", "erp-web", "--json").stdout)["placement"]["node"] is None
    assert published(installation, "vm-moved") == []


def test_a_kafka_that_is_away_is_one_sentence(invoke: Invoke) -> None:
    failed = invoke("vm", "list", "--bootstrap", "127.0.0.1:1")
    assert failed.exit_code == 1
    assert failed.stderr.startswith("failover-orch: no Kafka answers at 127.0.0.1:1")
    assert len(failed.stderr.splitlines()) == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1"])
def test_reading_is_not_opened_to_other_machines(invoke: Invoke, installation: Settings, host: str) -> None:
    refused = invoke("serve", "--open-reading", "--host", host)
    assert refused.exit_code == 1
    assert f"--open-reading is for loopback addresses, and {host} is none" in " ".join(refused.stderr.split())


def test_reading_is_not_opened_behind_a_proxy(invoke: Invoke, installation: Settings, tmp_path: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text("proxies: [127.0.0.1]\n")
    refused = invoke("serve", "--config", str(file), "--open-reading")
    assert refused.exit_code == 1
    assert "a proxy lets others in" in " ".join(refused.stderr.split())


def test_a_service_file_with_mistakes_is_said(invoke: Invoke, installation: Settings, tmp_path: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text("lisen: 127.0.0.1:8080\n")
    refused = invoke("serve", "--config", str(file))
    assert refused.exit_code == 1
    assert "line 1: lisen: is not a key of this format; did you mean 'listen'?" in " ".join(refused.stderr.split())


def test_serve_listens_and_ends_on_sigterm(installation: Settings) -> None:
    publish(installation, DB, ROUTE)
    program = "import typer; from failover_orch.cli.serve import serve; typer.run(serve)"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--port", "0", "--open-reading"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().removeprefix("listening on ").strip()
        transport = httpx.HTTPTransport(retries=3)
        with httpx.Client(base_url=address, transport=transport) as client:
            while (answer := client.get("/v1/vms/erp-db")).status_code == 503:
                assert answer.headers["Retry-After"] == "1"
            assert answer.json()["node"] == "p2"
            # Reading is open; what changes something is not.
            engaged = client.put("/v1/brake", json={"engaged": True, "reason": "me"}, headers={"Idempotency-Key": "1"})
            assert engaged.status_code == 403
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
