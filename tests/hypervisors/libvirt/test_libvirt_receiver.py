"""What sites tell each other of their replicas, over HTTP: who may, what is refused, and what is asked for twice."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from disk_images import run
from hyperv.certificate import certificates
from libvirt_vms import Vms
from replicating import Half, Replicating, half, replicating

from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.errors import StaleEpoch, StepFailed, StepRefused
from failover_orch.hypervisors.libvirt import LibvirtNode, LibvirtSite, PeerSite
from failover_orch.hypervisors.libvirt.messages import Conflict, Cycle, LinkDown, NewReplica
from failover_orch.hypervisors.libvirt.receiver import Receiver
from failover_orch.hypervisors.libvirt.record import Record
from failover_orch.hypervisors.libvirt.replicas import as_it_is
from failover_orch.hypervisors.libvirt.replication_server import Servers


@pytest.fixture
async def vm(vms: Vms) -> AsyncIterator[Replicating]:
    """A VM that has a replica, to which nothing was sent yet."""
    async with replicating(vms) as vm:
        await create(vm)
        yield vm


async def create(vm: Replicating, node: str = "d1") -> Record:
    placed = await vm.primary.placed(vm.vm_id)
    return await vm.primary.peers.create("dr", node, vm.vm_id, NewReplica(placed.xml, as_it_is(placed), {}))


async def other(stack: AsyncExitStack, settings: LibvirtSite) -> Half:
    return await stack.enter_async_context(half(settings))


async def cycle_of(vm: Replicating, **changed: object) -> Cycle:
    primary = await vm.record()
    cycle = Cycle(
        base=0,
        cycle=1,
        full=True,
        delivery="a",
        targets=("vda",),
        digests=("",),
        at_ms=1,
        age_ms=1,
        latency_ms=1,
        consistent=False,
        end=primary.end,
    )
    return replace(cycle, **changed)  # type: ignore[arg-type]


async def test_the_other_end_is_asked_wherever_it_is(vm: Replicating) -> None:
    record = await vm.primary.peers.end("dr", vm.vm_id)
    assert record is not None
    assert (record.end.node, record.end.mode, record.end.power) == ("d1", ReplicationMode.REPLICA, "OFF")
    assert record.end.state is ReplicationState.WAITING_FOR_INITIAL_REPLICATION
    assert await vm.primary.peers.end("dr", "vm-404") is None


async def test_without_the_key_nobody_is_answered(vm: Replicating) -> None:
    async with AsyncExitStack() as stack:
        for key in ("another key", ""):
            stranger = await other(stack, replace(vm.settings["primary"], key=key))
            with pytest.raises(StepFailed, match="dr knows no such key"):
                await stranger.peers.end("dr", vm.vm_id)


async def test_an_idle_connection_does_not_hold_up_the_end(
    vm: Replicating, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its other side would have to answer TLS's goodbye, and does not look at the connection until it needs it."""
    authority, chain = certificates(("localhost",))
    (tmp_path / "chain.pem").write_bytes(chain)
    settings = replace(vm.settings["dr"], tls_certificate=tmp_path / "chain.pem", listen="127.0.0.1:0")
    async with AsyncExitStack() as stack:
        here = await other(stack, settings)
        receiver = await stack.enter_async_context(Receiver(here.site, Servers(here.site)))
        trusting = ssl.create_default_context(cadata=authority.decode())
        port = int(receiver.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("localhost", port, ssl=trusting)
        writer.write(b"GET /ends/vm-1 HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 401")
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # as whoever does not look at it
        await receiver.__aexit__(None, None, None)
        writer.transport.abort()
    assert [each.message for each in caplog.records if "exceeded" in each.message] == []


async def test_a_link_that_is_down_is_told_from_a_site_that_cannot_say(vm: Replicating) -> None:
    vm.links["dr"].cut()
    with pytest.raises(LinkDown, match="the replication link from primary is down"):
        await vm.primary.peers.end("dr", vm.vm_id)
    vm.links["dr"].restore()
    gone = LibvirtNode("d9", "qemu+unix:///system?socket=/nonexistent/libvirt-sock", Path("/nonexistent"))
    settings = replace(vm.settings["dr"], listen="127.0.0.1:0")
    settings = replace(settings, nodes=(*settings.nodes, gone))
    async with AsyncExitStack() as stack:
        partly = await other(stack, settings)
        receiver = await stack.enter_async_context(Receiver(partly.site, Servers(partly.site)))
        peer = PeerSite("dr", {"d1": receiver.url})
        asking = await other(stack, replace(vm.settings["primary"], peers=(peer,)))
        record = await asking.peers.end("dr", vm.vm_id)
        assert record is not None
        with pytest.raises(StepFailed, match="may be on d9") as unknown:
            await asking.peers.end("dr", "vm-404")
        assert not isinstance(unknown.value, LinkDown)


async def test_the_first_receiver_that_knows_the_vm_answers_for_its_site(vm: Replicating) -> None:
    (peer,) = vm.settings["primary"].peers
    peer = replace(peer, nodes={**peer.nodes, "d3": "http://127.0.0.1:1"})
    async with AsyncExitStack() as stack:
        asking = await other(stack, replace(vm.settings["primary"], peers=(peer,)))
        record = await asking.peers.end("dr", vm.vm_id)
        assert record is not None
        assert record.end.node == "d1"


async def test_who_is_no_peer_is_named(vm: Replicating) -> None:
    with pytest.raises(StepFailed, match="third is not among the peers of primary"):
        await vm.primary.peers.end("third", vm.vm_id)
    with pytest.raises(StepFailed, match=r"no way to node d7 of dr: the peers of primary name d1, d2 there"):
        await vm.primary.peers.withdraw("dr", "d7", vm.vm_id)


async def test_a_replica_is_made_once(vm: Replicating) -> None:
    assert await create(vm) == await create(vm)
    with pytest.raises(Conflict, match=f"{vm.vm_id} is on d1, not on d2") as conflict:
        await create(vm, "d2")
    assert conflict.value.record is not None
    assert conflict.value.record.end.node == "d1"


async def test_a_replica_is_not_made_where_that_would_take_something_from_somebody(vms: Vms) -> None:
    async with replicating(vms) as vm:
        peer = PeerSite("dr", {"d7": vm.settings["primary"].peers[0].nodes["d1"]})
        async with half(replace(vm.settings["primary"], peers=(peer,))) as asking:
            placed = await vm.primary.placed(vm.vm_id)
            with pytest.raises(StepRefused, match="no node 'd7' at this site; its nodes are d1, d2"):
                await asking.peers.create("dr", "d7", vm.vm_id, NewReplica(placed.xml, placed.record, {}))
        await create(vm)
        await vm.dr.change(vm.vm_id, mode=ReplicationMode.PRIMARY)
        with pytest.raises(StepRefused, match="at dr is Primary"):
            await create(vm)
        async with vm.dr.site.lock(vm.vm_id):
            placed = await vm.dr.placed(vm.vm_id)
        with vms.connected("d1") as connection:
            connection.lookupByUUIDString(placed.uuid).setMetadata(2, None, None, "urn:failover-orch:vm:1", 2)
        with pytest.raises(StepRefused, match=r"has a domain with the UUID of .* undefine that one first"):
            await create(vm)


async def test_a_replica_that_would_have_something_of_its_node_is_refused(vms: Vms) -> None:
    async with replicating(vms) as vm:
        placed = await vm.primary.placed(vm.vm_id)
        root = "<devices><filesystem type='mount'><source dir='/'/><target dir='root'/></filesystem>"
        kernel = placed.xml.replace("<os>", "<os><kernel>/etc/shadow</kernel>")
        peers = vm.primary.peers
        for xml, said in (
            (
                placed.xml.replace("<devices>", root),
                r"cannot be replicated to d1: X4 it has a filesystem: take that out of the VM",
            ),
            (kernel, r"X11 it boots from '/etc/shadow', which is no file there that everybody may read"),
            (f"<!DOCTYPE d>{placed.xml}", r"X1 it has a document type, 'd'"),
        ):
            assert xml != placed.xml
            with pytest.raises(StepRefused, match=said):
                await peers.create("dr", "d1", vm.vm_id, NewReplica(xml, placed.record, {}))
        with pytest.raises(StepRefused, match=r"it is about '.*', and was sent to 'another'"):
            await peers.create("dr", "d1", "another", NewReplica(placed.xml, placed.record, {}))
        hidden = replace(placed.record, end=replace(placed.record.end, vm_id=".failover-orch"))
        with pytest.raises(StepRefused, match=r"a VM cannot be called '\.failover-orch'"):
            await peers.create("dr", "d1", ".failover-orch", NewReplica(placed.xml, hidden, {}))
        assert await peers.end("dr", vm.vm_id) is None
        await create(vm)


async def test_a_site_that_accepts_no_replicas_says_so(vms: Vms) -> None:
    async with replicating(vms) as vm, AsyncExitStack() as stack:
        settings = replace(vm.settings["dr"], listen="127.0.0.1:0", accepts_replicas=False)
        closed = await other(stack, settings)
        receiver = await stack.enter_async_context(Receiver(closed.site, Servers(closed.site)))
        peer = PeerSite("dr", {"d1": receiver.url})
        asking = await other(stack, replace(vm.settings["primary"], peers=(peer,)))
        placed = await vm.primary.placed(vm.vm_id)
        with pytest.raises(StepRefused, match="dr-cluster at dr does not accept replicas: enable it there"):
            await asking.peers.create("dr", "d1", vm.vm_id, NewReplica(placed.xml, placed.record, {}))


async def test_a_cycle_that_does_not_fit_is_refused_with_what_there_is(vm: Replicating) -> None:
    commit = vm.primary.peers.commit
    cases: list[tuple[dict[str, object], str]] = [
        ({"full": False, "base": 4, "cycle": 5}, "stands at cycle 0: it cannot take cycle 5 upon cycle 4"),
        ({"targets": ("vda", "vdb")}, "has disks vda, vdb at primary, and its replica at dr has vda"),
        ({}, "delivery a .* has not arrived at dr as it was sent"),
        ({"digests": ("0" * 64,)}, "delivery a .* has not arrived at dr as it was sent"),
    ]
    for changed, said in cases:
        with pytest.raises(Conflict, match=said) as conflict:
            await commit("dr", "d1", vm.vm_id, await cycle_of(vm, **changed))
        assert conflict.value.record is not None
        assert conflict.value.record.cycle == 0
    for node, said in (("d2", "is on d1, not on d2"),):
        with pytest.raises(Conflict, match=said):
            await commit("dr", node, vm.vm_id, await cycle_of(vm))
    await vm.dr.change(vm.vm_id, state=ReplicationState.FAILED_OVER_WAITING_COMPLETION)
    with pytest.raises(Conflict, match=r"Replica and FailOverWaitingCompletion \(5\): it receives nothing"):
        await commit("dr", "d1", vm.vm_id, await cycle_of(vm))
    with pytest.raises(StepRefused, match="cannot be understood"):
        await commit("dr", "d1", vm.vm_id, await cycle_of(vm, delivery="../../etc"))


async def test_a_cycle_committed_twice_is_taken_once(vm: Replicating) -> None:
    await vm.cycle()
    before = await vm.record(vm.dr)
    again = await vm.primary.peers.commit("dr", "d1", vm.vm_id, await cycle_of(vm, cycle=1))
    assert again.cycle == 1
    assert await vm.record(vm.dr) == before


async def test_a_digest_is_read_again_where_the_receiver_has_been_started_anew(vm: Replicating) -> None:
    async def later(*arguments: object) -> Record:
        # A receiver that did not take the files has to know them by what they are.
        await vm.restart_receiver()
        async with half(vm.settings["primary"]) as another:
            return await another.peers.commit(*arguments)  # type: ignore[arg-type]

    vm.primary.peers.commit = later  # type: ignore[method-assign,assignment]
    await vm.cycle()
    await vm.on("p1", "destroy")
    assert await vm.identical()


async def test_a_delivery_that_was_withdrawn_cannot_be_committed(vm: Replicating) -> None:
    original = vm.primary.peers.commit

    async def too_late(*arguments: object) -> Record:
        await vm.primary.peers.withdraw("dr", "d1", vm.vm_id)
        return await original(*arguments)  # type: ignore[arg-type]

    vm.primary.peers.commit = too_late  # type: ignore[method-assign,assignment]
    record = await vm.primary.sender.cycle(vm.vm_id)
    assert record is not None
    assert (record.end.missed_cycles, (await vm.record(vm.dr)).cycle) == (1, 0)
    vm.primary.peers.commit = original  # type: ignore[method-assign]
    await vm.primary.sender.cycle(vm.vm_id)
    await vm.on("p1", "destroy")
    assert await vm.identical()


async def test_an_epoch_is_accepted_and_a_lower_one_void(vm: Replicating) -> None:
    accept = vm.primary.peers.accept
    waiting = ReplicationState.WAITING_FOR_INITIAL_REPLICATION
    assert (await accept("dr", vm.vm_id, 5, waiting)).end.epoch == 5
    with pytest.raises(StaleEpoch, match="at dr has accepted epoch 5: a command of epoch 4 is void"):
        await accept("dr", vm.vm_id, 4, waiting)
    with pytest.raises(StepRefused, match="does not become FailedOver"):
        await accept("dr", vm.vm_id, 6, ReplicationState.FAILED_OVER)
    await vm.cycle()
    resynchronizing = await accept("dr", vm.vm_id, 7, ReplicationState.RESYNCHRONIZING)
    assert (resynchronizing.end.epoch, resynchronizing.end.state) == (7, ReplicationState.RESYNCHRONIZING)
    assert (await vm.record(vm.dr)).end.state is ReplicationState.RESYNCHRONIZING
    with pytest.raises(StepFailed, match="knows nothing of that VM"):
        await accept("dr", "vm-404", 5, waiting)


async def test_only_a_prepared_primary_that_is_off_is_turned_round(vm: Replicating) -> None:
    record = await vm.record()
    with pytest.raises(StepRefused, match=r"Primary and ReadyForInitialReplication \(1\), and not a primary that was"):
        await vm.dr.peers.become_replica("primary", vm.vm_id, 5, record.end)
    await vm.primary.change(vm.vm_id, state=ReplicationState.PREPARED)
    with pytest.raises(StepRefused, match="RUNNING at primary: shut it down before it becomes the replica"):
        await vm.dr.peers.become_replica("primary", vm.vm_id, 5, record.end)
    await vm.on("p1", "destroy")
    with pytest.raises(StepFailed, match="has changed meanwhile: look again"):
        await vm.dr.peers.become_replica("primary", vm.vm_id, 5, record.end)
    assert (await vm.record()).end.mode is ReplicationMode.PRIMARY


async def test_who_is_at_work_on_a_vm_is_waited_for_and_not_for_ever(
    vm: Replicating, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("failover_orch.hypervisors.libvirt.receiver._LOCK_S", 0.2)
    async with vm.receiving["dr"].lock(vm.vm_id):
        with pytest.raises(StepFailed, match=f"{vm.vm_id} at dr is being worked on: ask again"):
            await vm.primary.peers.withdraw("dr", "d1", vm.vm_id)
        # To look needs no lock.
        assert await vm.primary.peers.end("dr", vm.vm_id) is not None
    await vm.primary.peers.withdraw("dr", "d1", vm.vm_id)


async def test_what_cannot_be_understood_changes_nothing(vm: Replicating) -> None:
    url = f"{vm.settings['primary'].peers[0].nodes['d1']}/nodes/d1/ends/{vm.vm_id}"
    headers = {"Authorization": f"Bearer {vm.settings['dr'].key}"}
    async with httpx.AsyncClient(headers=headers, trust_env=False) as client:
        for path, body in (("/cycles", b"{}"), ("/cycles", b"\xff"), ("/cycles", b" " * 5_000_000), ("", b"[]")):
            response = await client.post(url + path, content=body)
            assert (response.status_code, response.json()["kind"]) == (409, "refused")
        for name in ("A", "a.b", "%2e%2e"):
            response = await client.put(f"{url}/deliveries/{name}/0", content=b"x")
            assert response.status_code == 409
        response = await client.put(f"{url}/deliveries/a/7", content=b"x")
        assert (response.status_code, response.json()["kind"]) == (409, "conflict")
    assert await vm.files(vm.dr) == set()


async def test_tls_is_checked(vm: Replicating, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=dr"),
        *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
    )
    settings = replace(vm.settings["dr"], listen="127.0.0.1:0", tls_certificate=certificate, tls_key=key)
    async with AsyncExitStack() as stack:
        there = await other(stack, settings)
        receiver = await stack.enter_async_context(Receiver(there.site, Servers(there.site)))
        assert receiver.url.startswith("https://127.0.0.1:")
        settings = replace(vm.settings["primary"], peers=(PeerSite("dr", {"d1": receiver.url}),))
        stranger = await other(stack, settings)
        with pytest.raises(LinkDown, match="certificate verify failed"):
            await stranger.peers.end("dr", vm.vm_id)
        trusting = await other(stack, replace(settings, tls_ca=certificate))
        assert await trusting.peers.end("dr", vm.vm_id) is not None
