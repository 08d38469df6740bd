"""Which addresses a lab gives out, and what it refuses."""

from __future__ import annotations

import pytest

from failover_orch.errors import LabError
from failover_orch.lab import Lab
from failover_orch.lab.network import plan_network

NODES = {"p1": "primary", "d1": "dr", "p2": "primary"}


def test_everything_has_an_address_of_its_own() -> None:
    plan = plan_network("x", 7, NODES)
    primary, dr = plan.sites["primary"], plan.sites["dr"]
    assert [str(address) for address in (plan.root4, plan.third4, plan.third6)] == [
        "10.99.7.1/27",
        "10.99.7.2/27",
        "fd99:0:7::2/64",
    ]
    assert {node: str(address) for node, address in primary.nodes.items()} == {
        "p1": "10.99.7.34/27",
        "p2": "10.99.7.35/27",
    }
    assert {node: str(address) for node, address in dr.nodes.items()} == {"d1": "10.99.7.66/27"}
    assert (str(primary.uplink4), str(dr.uplink4)) == ("10.99.7.3/27", "10.99.7.4/27")
    assert (str(primary.gateway), str(dr.gateway)) == ("10.99.7.33/27", "10.99.7.65/27")


def test_the_sites_vm_networks() -> None:
    plan = plan_network("x", 1, NODES)
    assert [(str(site.lan.v4), str(site.lan.v6)) for site in plan.sites.values()] == [
        ("10.10.0.0/24", "fd10::/64"),
        ("10.50.0.0/24", "fd50::/64"),
    ]
    assert str(plan.sites["dr"].lan.gateway4) == "10.50.0.1/24"
    assert str(plan.sites["dr"].lan.gateway6) == "fd50::1/64"


@pytest.mark.parametrize("name", ["", "Lab", "0lab", "a-name-of-more", "a_b"])
def test_a_name_that_cannot_name_an_interface(name: str) -> None:
    with pytest.raises(LabError, match=rf"up to 12 of a-z, 0-9 and '-'.*which '{name}' does not"):
        plan_network(name, 1, NODES)


@pytest.mark.parametrize("nodes", [{"P1": "primary"}, {"p1": "the primary"}])
def test_names_of_nodes_and_sites(nodes: dict[str, str]) -> None:
    with pytest.raises(LabError, match=r"is named with a-z, 0-9 and '-', which '(P1|the primary)' is not"):
        plan_network("x", 1, nodes)


def test_too_many_sites() -> None:
    with pytest.raises(LabError, match="a lab has 1 to 3 sites, not 4: a, b, c, d"):
        plan_network("x", 1, {f"{site}1": site for site in "abcd"})
    with pytest.raises(LabError, match="a lab has 1 to 3 sites, not 0"):
        plan_network("x", 1, {})


def test_too_many_nodes() -> None:
    with pytest.raises(LabError, match="up to 28 nodes, and primary has 29"):
        plan_network("x", 1, {f"p{number}": "primary" for number in range(29)})


def test_what_the_lab_does_not_have(tmp_path_factory: pytest.TempPathFactory) -> None:
    lab = Lab(tmp_path_factory.getbasetemp() / "none", NODES)
    with pytest.raises(LabError, match="no node 'd2'; it has p1, d1, p2"):
        lab.node("d2")
    with pytest.raises(LabError, match="no site 'moon'; it has primary, dr"):
        lab.run_in("moon")
    assert lab.sites == ("primary", "dr")
