"""Replication settings of libvirt nodes and VMs: what they let in, what cycles make of them, what they look like."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from libvirt_vms import Vms, make_record
from replicating import Replicating, replicating

from failover_orch.domain.replication_settings import (
    AcceptedAuthentication,
    AuthorizationEntry,
    ReplicationServer,
    VmReplication,
)
from failover_orch.errors import StepFailed, StepRefused
from failover_orch.hypervisors.libvirt.compression import deflated, inflated
from failover_orch.hypervisors.libvirt.messages import NewReplica
from failover_orch.hypervisors.libvirt.record import decode, encode
from failover_orch.hypervisors.libvirt.replicas import as_it_is
from failover_orch.hypervisors.libvirt.replication_server import Servers, settings_file
from failover_orch.hypervisors.libvirt.vm_replication import settings_of, with_settings

GOLD, SILVER = "gold", "silver"

# A VM's settings, in its record


@given(
    st.builds(
        VmReplication,
        frequency_s=st.sampled_from([30, 300, 900]),
        recovery_points=st.integers(0, 24),
        application_consistent_hours=st.integers(0, 12),
        compression=st.booleans(),
        bypass_proxy=st.booleans(),
        auto_resynchronize=st.booleans(),
    )
)
def test_a_record_says_what_it_was_told(wanted: VmReplication) -> None:
    record = with_settings(make_record("vm-1"), wanted)
    assert settings_of(decode(encode(record))) == wanted
    assert record.points == wanted.recovery_points + 1


def test_a_record_of_the_site_file_alone_says_what_that_comes_to() -> None:
    record = replace(make_record("vm-1"), every_ms=900_000, points=4, consistent_every=4)
    assert settings_of(record) == VmReplication(
        frequency_s=900, recovery_points=3, application_consistent_hours=1, compression=False
    )


def test_a_shorter_interval_brings_the_next_cycle_forward_and_a_longer_one_does_not_put_it_off() -> None:
    record = replace(make_record("vm-1"), every_ms=900_000)
    record = replace(record, end=replace(record.end, next_cycle_at_ms=1_000_000))
    assert with_settings(record, VmReplication(frequency_s=300)).end.next_cycle_at_ms == 400_000
    shorter = replace(record, every_ms=30_000)
    assert with_settings(shorter, VmReplication(frequency_s=300)).end.next_cycle_at_ms == 1_000_000


# What is sent, made smaller


async def some(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 50))
async def test_what_is_compressed_comes_out_whole_however_it_is_cut(chunks: list[bytes], size: int) -> None:
    sent = b"".join([part async for part in deflated(some(chunks))])
    cut = [sent[place : place + size] for place in range(0, len(sent), size)]
    assert b"".join([part async for part in inflated(some(cut))]) == b"".join(chunks)


async def test_very_much_comes_out_of_very_little_in_portions() -> None:
    sent = zlib.compress(bytes(8 * 1024 * 1024))
    portions = [len(part) async for part in inflated(some([sent]))]
    assert sum(portions) == 8 * 1024 * 1024
    assert max(portions) <= 256 * 1024


@pytest.mark.parametrize("sent", [zlib.compress(b"whole")[:-2], b"no such thing", b""])
async def test_what_is_not_whole_is_an_error(sent: bytes) -> None:
    with pytest.raises(StepFailed, match=r"cannot be decompressed|before its end"):
        assert [part async for part in inflated(some([sent]))]


# A node's settings, in its file


@pytest.fixture
async def vm(vms: Vms) -> AsyncIterator[Replicating]:
    async with replicating(vms) as vm:
        yield vm
        forget_all(vm)


def let_in(vm: Replicating, settings: ReplicationServer | str) -> None:
    """Write the settings of d1, as its administrator may."""
    file = Path(settings_file(vm.dr.site.nodes.node("d1")))
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(settings.encode() if isinstance(settings, str) else msgspec.json.encode(settings))


def forget_all(vm: Replicating) -> None:
    for node in vm.dr.site.nodes:
        Path(settings_file(node)).unlink(missing_ok=True)


def server(vm: Replicating, name: str = "primary-broker", group: str = GOLD, *, below: str = "") -> ReplicationServer:
    location = str(Path(vm.vms.lab.node("d1").storage) / below)
    return ReplicationServer(
        enabled=True,
        authentication=AcceptedAuthentication.CERTIFICATE,
        authorization=(AuthorizationEntry(name, location, group),),
    )


async def create(vm: Replicating) -> None:
    placed = await vm.primary.placed(vm.vm_id)
    await vm.primary.peers.create("dr", "d1", vm.vm_id, NewReplica(placed.xml, as_it_is(placed), {}))


async def test_a_node_that_is_not_enabled_takes_no_new_replica(vm: Replicating) -> None:
    let_in(vm, replace(server(vm), enabled=False))
    with pytest.raises(StepRefused, match="dr-cluster at dr does not accept replicas: enable it there"):
        await create(vm)
    record = await vm.primary.sender.cycle(vm.vm_id)
    assert record is not None
    assert record.end.missed_cycles == 1


async def test_only_who_has_an_authorization_entry_is_let_in(vm: Replicating) -> None:
    let_in(vm, server(vm, "other-broker"))
    with pytest.raises(StepRefused, match="d1 at dr has no authorization entry for primary-broker: make one there"):
        await create(vm)
    let_in(vm, server(vm, below="of-gold"))
    await vm.cycle()
    record = await vm.record(vm.dr)
    assert record.trust_group == GOLD
    assert record.end.storage == str(Path(vm.vms.lab.node("d1").storage) / "of-gold" / vm.vm_id)


async def test_a_primary_of_another_trust_group_does_not_go_on_with_a_replica(vm: Replicating) -> None:
    let_in(vm, server(vm))
    await vm.cycle()
    let_in(vm, server(vm, group=SILVER))
    record = await vm.primary.sender.cycle(vm.vm_id)
    assert record is not None
    assert record.end.missed_cycles == 1
    let_in(vm, server(vm, name="*.elsewhere"))
    record = await vm.primary.sender.cycle(vm.vm_id)
    assert record is not None
    assert record.end.missed_cycles == 2
    # A node that takes no new replicas goes on with those that it has.
    let_in(vm, replace(server(vm, group=SILVER), enabled=False))
    await vm.cycle()


async def test_a_node_that_was_never_told_says_what_the_site_file_says(vm: Replicating) -> None:
    settings = replace(vm.settings["dr"], listen="127.0.0.1:7443")
    vm.dr.site.settings = settings
    told = await Servers(vm.dr.site).settings()
    storage = str(vm.vms.lab.node("d1").storage)
    assert told["d1"] == ReplicationServer(
        enabled=True,
        http_port=7443,
        https_port=0,
        from_any_server=True,
        default_storage_location=storage,
    )
    with pytest.raises(StepRefused, match="cannot be given enabled: the agents of dr receive nothing over TLS"):
        await Servers(vm.dr.site).apply("d1", server(vm))


async def test_a_file_that_cannot_be_read_is_pointed_out(vm: Replicating) -> None:
    let_in(vm, '{"enabled": "perhaps"}')
    told = await Servers(vm.dr.site).settings(["d1"])
    assert "holds no replication settings" in str(told["d1"])
    with pytest.raises(StepFailed, match="holds no replication settings"):
        await create(vm)
    closed = ReplicationServer(monitoring_interval_s=3600)
    await Servers(vm.dr.site).apply("d1", closed)
    assert await Servers(vm.dr.site).settings(["d1"]) == {"d1": closed}


async def test_cycles_are_as_the_vm_was_told_and_its_replica_learns_of_it(vm: Replicating) -> None:
    wanted = VmReplication(frequency_s=900, recovery_points=1, compression=True)
    placed = await vm.primary.placed(vm.vm_id)
    async with vm.primary.site.lock(vm.vm_id):
        await vm.primary.site.nodes.write(placed, with_settings(placed.record, wanted))
    for number in range(3):
        await vm.write(number + 1, 64 * number)
        await vm.cycle()
    replica = await vm.record(vm.dr)
    assert settings_of(replica) == wanted
    assert [point.point_id for point in replica.end.recovery_points] == ["rp-2", "rp-3"]
    await vm.on("p1", "destroy")
    assert await vm.identical()
