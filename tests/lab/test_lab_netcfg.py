"""How a tiny guest merges an injected network configuration over its own: its very script, run here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from failover_orch.lab.guest import image

OWN = "mac=52:54:00:00:00:01 v4=10.10.0.21/24 gw4=10.10.0.1 v6=fd10::21/64 gw6=fd10::1 dns=10.10.0.1,fd10::1\n"
OTHER = "mac=52:54:00:00:00:02 v4=172.16.0.2/24\n"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "netcfg").write_text(OWN + OTHER)
    (tmp_path / "run").mkdir()
    return tmp_path


def netcfg(disk: Path, *arguments: str, injected: str) -> None:
    environment = {**os.environ, "NETCFG_DATA": str(disk), "NETCFG_RUN": str(disk / "run")}
    command = ["sh", str(image.ROOT / "sbin" / "netcfg"), *arguments]
    subprocess.run(command, input=injected, text=True, check=True, env=environment)


def merged(disk: Path, injected: str) -> str:
    netcfg(disk, "inject", injected=injected)
    return (disk / "netcfg").read_text()


def test_both_families_replaced(disk: Path) -> None:
    new = "mac=52:54:00:00:00:01 v4=10.50.0.21/24 gw4=10.50.0.1 v6=fd50::21/64 gw6=fd50::1 dns=10.50.0.1,fd50::1\n"
    assert merged(disk, new) == new + OTHER


def test_a_family_left_out_keeps_what_the_disk_says_with_its_servers(disk: Path) -> None:
    assert (
        merged(disk, "mac=52:54:00:00:00:01 v4=10.50.0.21/24 gw4=10.50.0.1 dns=10.50.0.1")
        == ("mac=52:54:00:00:00:01 v4=10.50.0.21/24 gw4=10.50.0.1 v6=fd10::21/64 gw6=fd10::1 dns=10.50.0.1,fd10::1\n")
        + OTHER
    )


def test_a_family_named_without_gateway_or_servers_has_none(disk: Path) -> None:
    assert (
        merged(disk, "mac=52:54:00:00:00:01 v6=fd50::21/64")
        == ("mac=52:54:00:00:00:01 v4=10.10.0.21/24 gw4=10.10.0.1 v6=fd50::21/64 dns=10.10.0.1\n") + OTHER
    )


def test_leases_instead_of_addresses_and_back(disk: Path) -> None:
    assert merged(disk, "mac=52:54:00:00:00:01 dhcp4=1 dhcp6=1") == "mac=52:54:00:00:00:01 dhcp4=1 dhcp6=1\n" + OTHER
    assert merged(disk, "mac=52:54:00:00:00:01 v4=10.50.0.21/24") == (
        "mac=52:54:00:00:00:01 v4=10.50.0.21/24 dhcp6=1\n" + OTHER
    )


def test_servers_alone(disk: Path) -> None:
    assert merged(disk, "mac=52:54:00:00:00:01 dns=9.9.9.9") == OWN.replace("dns=10.10.0.1", "dns=9.9.9.9") + OTHER


def test_several_addresses_and_a_mac_in_capitals(disk: Path) -> None:
    assert merged(disk, "mac=52:54:00:00:00:0A v4=10.50.0.21/24,10.50.0.22/24").endswith(
        OTHER + "mac=52:54:00:00:00:0a v4=10.50.0.21/24,10.50.0.22/24\n"
    )


def test_an_id_is_applied_once(disk: Path) -> None:
    netcfg(disk, "once", "fw_cfg", injected="id=one\nmac=52:54:00:00:00:02 v4=1.0.0.1/8\n")
    assert (disk / "run" / "source").read_text() == "fw_cfg\n"
    (disk / "netcfg").write_text(OTHER)  # a change made in the guest, later
    (disk / "run" / "source").unlink()
    netcfg(disk, "once", "fw_cfg", injected="id=one\nmac=52:54:00:00:00:02 v4=1.0.0.1/8\n")
    assert (disk / "netcfg").read_text() == OTHER
    assert not (disk / "run" / "source").exists()
    netcfg(disk, "once", "fw_cfg", injected="id=two\nmac=52:54:00:00:00:02 v4=1.0.0.1/8\n")
    assert (disk / "netcfg").read_text() == "mac=52:54:00:00:00:02 v4=1.0.0.1/8\n"
    netcfg(disk, "once", "fw_cfg", injected="id=one\nmac=52:54:00:00:00:02 v4=2.0.0.2/8\n")
    assert (disk / "netcfg").read_text() == "mac=52:54:00:00:00:02 v4=1.0.0.1/8\n"


def test_a_disk_without_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert merged(tmp_path, OTHER) == OTHER
