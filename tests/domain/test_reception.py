"""Whether a primary server may replicate here, where and how: rules J1 to J6, and N7 of placement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover_orch.domain.inventory import ClusterInventory, Guest, Node, NodeState, Replication, Storage, VmInventory
from failover_orch.domain.placement import Placed, place
from failover_orch.domain.reception import ReceptionRequest, entry_for, receive_replica, unfit_nodes
from failover_orch.domain.replication import ReplicationState
from failover_orch.domain.replication_settings import (
    AcceptedAuthentication,
    AuthorizationEntry,
    NodePort,
    ReplicationServer,
    SettingsRevision,
    SettingsScope,
    SettingsStanding,
    Standing,
)

VOLUME, OTHER = Storage("/srv", 1000, 800), Storage("/srv/fast", 1000, 900)
DR = ClusterInventory(
    "dc",
    "dr",
    "DR-BROKER",
    (
        Node("d1", NodeState.UP, 100_000, 80_000, storages=(VOLUME,)),
        Node("d2", NodeState.UP, 100_000, 90_000, storages=(VOLUME, OTHER)),
    ),
)
PRI = ClusterInventory("pc", "primary", "pri-broker.example.com", (Node("p1", NodeState.UP, 1, 1),))
CLUSTERS = (DR, PRI)
VM = VmInventory(
    "vm-1",
    "erp",
    (),
    Guest("debian-12"),
    Replication(ReplicationState.READY_FOR_INITIAL_REPLICATION, "primary", "dr", "pc", "dc"),
    memory_mib=8_000,
    storage_gib=100,
)
SERVER = ReplicationServer(
    enabled=True,
    authorization=(
        AuthorizationEntry("*.example.com", "/srv/many", "gold"),
        AuthorizationEntry("own.example.com", "/srv/fast/own", "silver"),
    ),
)


def revision(server: ReplicationServer = SERVER) -> SettingsRevision:
    return SettingsRevision(SettingsScope.CLUSTER, "dc", 4, (), "a", "b", 1, server=server)


def stands(
    node: str, standing: Standing = Standing.IN_SYNC, *, applied: int = 4, evidence: Mapping[str, str] = {}
) -> SettingsStanding:
    return SettingsStanding(SettingsScope.CLUSTER, "dc", node, standing, 4, applied, 1, "so it is", evidence)


IN_SYNC = {node: stands(node) for node in ("d1", "d2")}
HERE = Placed("vm-1", "d1", "dr")


def asked(primary: str = "a.example.com", trust_group: str = "") -> ReceptionRequest:
    return ReceptionRequest(primary, VM, "dc", trust_group)


def test_who_is_authorised_hears_where_to_go_and_how() -> None:
    found = receive_replica(revision(), IN_SYNC, CLUSTERS, (), asked())
    assert found.refused == ()
    assert found.placement is not None
    assert (found.placement.node, found.placement.storage) == ("d2", "/srv")
    assert (found.storage_location, found.trust_group, found.version) == ("/srv/many", "gold", 4)
    assert (found.broker, found.http_port, found.https_port) == ("DR-BROKER", 80, 0)
    assert found.authentication is AcceptedAuthentication.KERBEROS


def test_an_entry_by_name_goes_before_one_with_a_wildcard_and_its_storage_is_used() -> None:
    found = receive_replica(revision(), IN_SYNC, CLUSTERS, (), asked("OWN.example.com"))
    assert (found.storage_location, found.trust_group) == ("/srv/fast/own", "silver")
    assert found.placement is not None
    assert (found.placement.node, found.placement.storage) == ("d2", "/srv/fast")


def test_only_a_node_that_has_the_entrys_storage_takes_the_replica() -> None:
    here = replace(DR, nodes=(DR.nodes[0], replace(DR.nodes[1], storages=(Storage("/data", 1000, 800),))))
    server = replace(SERVER, authorization=(AuthorizationEntry("*.example.com", "/data/replicas", "gold"),))
    found = receive_replica(revision(server), IN_SYNC, (here, PRI), (), asked())
    assert found.placement is not None
    assert (found.placement.node, found.placement.storage) == ("d2", "/data")
    assert [node.reasons for node in found.placement.refused] == [
        ("N6: d1 has no storage for /data/replicas, where this replica has to be",)
    ]


@pytest.mark.parametrize(
    ("primary", "known"),
    [
        ("a.example.com", "*.example.com"),
        ("A.EXAMPLE.COM", "*.example.com"),
        ("own.example.com", "own.example.com"),
        ("a.b.example.com", ""),
        ("example.com", ""),
        ("aexample.com", ""),
        ("a.example.com.evil.org", ""),
        ("a.example.com.", "*.example.com"),
        ("*.example.com", ""),
        ("", ""),
    ],
)
def test_a_wildcard_is_one_label_and_no_more(primary: str, known: str) -> None:
    entry = entry_for(SERVER, primary)
    assert (entry.primary_server if entry else "") == known


def test_any_server_may_come_where_that_is_set() -> None:
    server = ReplicationServer(enabled=True, from_any_server=True, default_storage_location="/srv")
    found = receive_replica(revision(server), IN_SYNC, CLUSTERS, (), asked("whoever"))
    assert (found.refused, found.storage_location, found.trust_group) == ((), "/srv", "")


@pytest.mark.parametrize(
    ("settings", "wanted", "replicas", "why"),
    [
        (None, asked(), (), "J1: cluster dc has no replication settings: set what it accepts first"),
        (revision(), replace(asked(), cluster="x"), (), "J1: cluster x is not known"),
        (revision(ReplicationServer()), asked(), (), "J2: replication to cluster dc is not enabled"),
        (revision(), asked("a.other.org"), (), "J3: cluster dc accepts no replicas from a.other.org"),
        (revision(), asked(trust_group="silver"), (), "J4: a.example.com is of trust group gold here, not of silver"),
        (
            revision(),
            asked("own.example.com"),
            (HERE,),
            "J5: the replica of vm-1 belongs to trust group gold, and own.example.com is of silver",
        ),
        (
            revision(replace(SERVER, authorization=(AuthorizationEntry("x.org", "/srv", "gold"),))),
            asked("x.org"),
            (HERE,),
            "J5: the replica of vm-1 belongs to pri-broker.example.com, which has no entry any more",
        ),
        (
            revision(replace(SERVER, http_port_map=(NodePort("d2", 8082), NodePort("DR-BROKER", 8083)))),
            asked(),
            (HERE,),
            "J6: node d1, which has the replica, is in no port map of dc: add it there",
        ),
    ],
)
def test_who_is_refused_hears_why(
    settings: SettingsRevision | None, wanted: ReceptionRequest, replicas: tuple[Placed, ...], why: str
) -> None:
    (said,) = receive_replica(settings, IN_SYNC, CLUSTERS, replicas, wanted).refused
    assert said.startswith(why)


def test_a_replica_is_where_it_is_and_takes_traffic_from_its_own_trust_group() -> None:
    found = receive_replica(revision(), {}, CLUSTERS, (HERE,), asked("other.example.com"))
    assert found.refused == ()
    assert found.placement is not None
    assert (found.placement.node, found.placement.existing) == ("d1", True)
    elsewhere = receive_replica(revision(), IN_SYNC, CLUSTERS, (replace(HERE, site="third"),), asked("own.example.com"))
    assert elsewhere.refused == ()


def test_a_replica_whose_first_primary_nobody_knows_takes_whoever_is_authorised() -> None:
    standalone = replace(VM, replication=replace(VM.replication, primary_cluster=""))
    wanted = replace(asked("own.example.com"), vm=standalone)
    assert receive_replica(revision(), IN_SYNC, CLUSTERS, (HERE,), wanted).refused == ()


def test_the_port_is_that_of_the_node() -> None:
    ports = (NodePort("D1", 8081), NodePort("d2", 8082), NodePort("DR-BROKER", 8083))
    server = replace(
        SERVER,
        authentication=AcceptedAuthentication.BOTH,
        certificate_thumbprint="AB",
        http_port_map=ports,
        https_port=444,
    )
    there = receive_replica(revision(server), IN_SYNC, CLUSTERS, (HERE,), asked())
    assert (there.http_port, there.https_port, there.certificate_thumbprint) == (8081, 444, "AB")
    new = receive_replica(revision(server), IN_SYNC, CLUSTERS, (), asked())
    assert (new.http_port, new.https_port) == (8082, 444)


@pytest.mark.parametrize(
    ("standing", "fit"),
    [
        (stands("d1"), True),
        (stands("d1", Standing.APPLYING, applied=3), True),
        (stands("d1", Standing.DRIFTED, evidence={"monitoring_interval_s": "1h"}), True),
        (stands("d1", Standing.DRIFTED, evidence={"monitoring_interval_s": "1h", "http_port": "81"}), False),
        (stands("d1", Standing.APPLYING, applied=0), False),
        (stands("d1", Standing.FAILED), False),
        (stands("d1", Standing.AWAY), False),
        (None, False),
    ],
)
def test_n7_a_node_that_has_not_its_settings_takes_no_new_replica(
    standing: SettingsStanding | None, *, fit: bool
) -> None:
    standings = {"d2": stands("d2")} | ({"d1": standing} if standing else {})
    unfit = unfit_nodes(revision(), DR, standings)
    assert (("dc", "d1") not in unfit) is fit
    placement = place(VM, CLUSTERS, (), unfit=unfit)
    assert placement.node == "d2"
    assert any(candidate.node == "d1" for candidate in placement.candidates) is fit
    if not fit:
        (said,) = [node.reasons for node in placement.refused if node.node == "d1"]
        assert said[0].startswith("N7: d1 ")


def test_n7_a_node_that_no_port_map_names_takes_no_new_replica() -> None:
    server = replace(SERVER, http_port_map=(NodePort("d2", 8082), NodePort("DR-BROKER", 8083)))
    assert unfit_nodes(revision(server), DR, IN_SYNC) == {
        ("dc", "d1"): "http_port_map leaves out d1: give it a port there"
    }


def test_a_cluster_without_settings_has_no_unfit_nodes() -> None:
    assert unfit_nodes(None, DR, {}) == {}


def test_where_no_node_can_take_it_the_answer_says_why() -> None:
    found = receive_replica(revision(), {}, CLUSTERS, (), asked())
    (why,) = found.refused
    assert "d1 has not taken the replication settings yet" in why
    assert found.placement is not None
    assert found.placement.node is None


@pytest.mark.parametrize(
    ("path", "location", "holds"),
    [
        ("/srv", "/srv", True),
        ("/srv/", "/srv/replicas", True),
        ("/srv", "/srvx", False),
        ("/", "/srv", True),
        ("/SRV", "/srv", False),
        (r"C:\ClusterStorage\Volume1", r"c:\clusterstorage\volume1\Replicas", True),
        (r"C:\ClusterStorage\Volume1", r"C:/ClusterStorage/Volume1/x", True),
        (r"C:\ClusterStorage\Volume1", r"C:\ClusterStorage\Volume10", False),
        (r"\\smb\share", r"\\SMB\share\x", True),
    ],
)
def test_which_storage_holds_a_location(path: str, location: str, holds: bool) -> None:
    node = replace(DR.nodes[0], storages=(Storage(path, 1000, 800),))
    placement = place(VM, (replace(DR, nodes=(node,)),), (), storage_location=location)
    assert (placement.node == "d1") is holds


@given(
    st.lists(st.sampled_from(["a.example.com", "b.example.com", "*.example.com", "*.b.org", "x.b.org"]), unique=True)
)
def test_who_comes_in_does_not_depend_on_the_order_of_entries(names: list[str]) -> None:
    entries = tuple(AuthorizationEntry(name, f"/{name}", name) for name in names)
    one, other = ReplicationServer(authorization=entries), ReplicationServer(authorization=entries[::-1])
    for primary in ("a.example.com", "c.example.com", "x.b.org", "y.b.org", "z.c.org"):
        assert entry_for(one, primary) == entry_for(other, primary)
