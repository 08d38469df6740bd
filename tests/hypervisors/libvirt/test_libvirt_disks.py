"""The files of a VM's disks: with qemu-img, on real files, and without any VM."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from disk_images import described, holds, in_use, run, write
from libvirt_vms import make_record

from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.errors import StepFailed
from failover_orch.hypervisors.libvirt import LibvirtNode
from failover_orch.hypervisors.libvirt.disks import Disks
from failover_orch.hypervisors.libvirt.node import Node
from failover_orch.hypervisors.libvirt.record import Record
from failover_orch.hypervisors.rules import RecoveryPoint

MIB = 1 << 20


class Storage:
    """A directory with a VM's two disks, and what a test does to it past `Disks`."""

    def __init__(self, directory: Path) -> None:
        self.paths = [directory / "vda.qcow2", directory / "vd[b].qcow2"]
        node = Node(LibvirtNode("d1", "test:///default", directory), lambda: 0, lambda _event: None)
        self.disks = Disks(node, [str(path) for path in self.paths])
        self.deliveries = 0

    def files(self, disk: int = 0) -> set[str]:
        path = self.paths[disk]
        found = {each.name.removeprefix(path.name).removeprefix(".") for each in path.parent.iterdir()}
        return {name for name in found if not name.startswith("vd")}

    def make(self, suffix: str = "", *patterns: int) -> None:
        for path in self.paths:
            image = f"{path}.{suffix}" if suffix else str(path)
            run("qemu-img", "create", "-q", "-f", "qcow2", image, "8M")
            for at, pattern in enumerate(patterns):
                write(image, pattern, at)

    async def deliver(self, pattern: int, number: int, *, upon: int = 0, at: int = 0) -> None:
        """Have a delivery taken in as recovery point `number`: a MiB of the pattern, upon another point or none."""
        self.deliveries += 1
        delivery = f"x{self.deliveries}"
        for index in range(len(self.paths)):
            incoming = self.disks.incoming(index, delivery)
            run("qemu-img", "create", "-q", "-f", "qcow2", incoming, "8M")
            write(incoming, pattern, at)
        await self.disks.take_in(delivery, f"rp-{number}", upon=f"rp-{upon}" if upon else "")

    def hold(self, suffix: str, *patterns: int) -> bool:
        return all(holds(f"{path}.{suffix}" if suffix else path, *patterns) for path in self.paths)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


def replica(*points: str, **changed: object) -> Record:
    record = make_record("vm-1", "dr", "d1")
    end = replace(
        record.end,
        mode=ReplicationMode.REPLICA,
        recovery_points=tuple(RecoveryPoint(point, 1) for point in points),
        points_taken=len(points),
    )
    return replace(record, end=replace(end, **changed), cycle=7)  # type: ignore[arg-type]


async def test_a_locked_disk_is_released_as_it_was(storage: Storage) -> None:
    storage.make("", 5)
    for _ in range(2):
        await storage.disks.lock()
        assert storage.files() == storage.files(1) == {"locked"}
    for _ in range(2):
        await storage.disks.unlock()
        assert storage.files() == {""}
    assert storage.hold("", 5)


async def test_a_lock_that_was_cut_short_is_completed(storage: Storage) -> None:
    storage.make()
    storage.paths[0].rename(f"{storage.paths[0]}.locked")
    await storage.disks.lock()
    assert storage.files() == storage.files(1) == {"locked"}


async def test_a_disk_that_is_in_use_is_not_taken_away(storage: Storage) -> None:
    storage.make()
    with in_use(storage.paths[1]):
        for take in (storage.disks.lock, storage.disks.discard, storage.disks.set_aside):
            with pytest.raises(StepFailed, match=r"vd\[b\]\.qcow2 is in use on d1: a VM runs from it"):
                await take()
        with pytest.raises(StepFailed, match="in use"):
            await storage.disks.become_point("rp-1")
    assert storage.files() == storage.files(1) == {""}


async def test_a_disk_that_is_missing_is_named(storage: Storage) -> None:
    storage.make()
    storage.paths[1].unlink()
    with pytest.raises(StepFailed, match=r"vd\[b\]\.qcow2 is missing on d1"):
        await storage.disks.lock()
    assert storage.files() == {""}


async def test_two_disks_of_one_name_are_for_a_person_to_tell_apart(storage: Storage) -> None:
    storage.make()
    storage.make("locked")
    with pytest.raises(StepFailed, match=r"both .*vda\.qcow2 and .*vda\.qcow2\.locked are on d1"):
        await storage.disks.lock()


async def test_recovery_points_stand_one_upon_the_other(storage: Storage) -> None:
    for number in range(1, 4):
        await storage.deliver(number, number, upon=number - 1, at=number)
    assert storage.files() == storage.files(1) == {"rp-1", "rp-2", "rp-3"}
    assert storage.hold("rp-1", 0, 1, 0, 0)
    assert storage.hold("rp-2", 0, 1, 2, 0)
    assert storage.hold("rp-3", 0, 1, 2, 3)


async def test_what_is_beyond_the_points_kept_is_merged(storage: Storage) -> None:
    for number in range(1, 6):
        await storage.deliver(number, number, upon=number - 1, at=number)
    for _ in range(2):
        await storage.disks.tidy(["rp-3", "rp-5"])
        assert storage.files() == storage.files(1) == {"rp-3", "rp-5"}
        assert storage.hold("rp-3", 0, 1, 2, 3, 0, 0)
        assert storage.hold("rp-5", 0, 1, 2, 3, 4, 5)


async def test_a_merge_that_was_cut_short_is_completed(storage: Storage) -> None:
    for number in range(1, 4):
        await storage.deliver(number, number, upon=number - 1, at=number)
    # All but the rename had been done of rp-2 into rp-1.
    run("qemu-img", "commit", "-q", "-d", f"{storage.paths[0]}.rp-2")
    assert holds(f"{storage.paths[0]}.rp-2", 0, 1, 2)
    await storage.disks.tidy(["rp-2", "rp-3"])
    assert storage.files() == storage.files(1) == {"rp-2", "rp-3"}
    assert storage.hold("rp-2", 0, 1, 2, 0)
    assert storage.hold("rp-3", 0, 1, 2, 3)


async def test_a_full_copy_takes_the_place_of_all_points(storage: Storage) -> None:
    for number in range(1, 4):
        await storage.deliver(number, number, upon=number - 1, at=number)
    await storage.deliver(9, 4)
    # Until the record names it alone, everything is there.
    assert storage.files() == {"rp-1", "rp-2", "rp-3", "rp-4"}
    assert storage.hold("rp-3", 0, 1, 2, 3)
    await storage.disks.tidy(["rp-4"])
    assert storage.files() == {"rp-4"}
    assert storage.hold("rp-4", 9, 0, 0, 0)


@pytest.mark.parametrize("suffix", ["", "test"])
async def test_nothing_is_merged_under_what_may_run(storage: Storage, suffix: str) -> None:
    for number in range(1, 6):
        await storage.deliver(number, number, upon=number - 1, at=number)
    await (storage.disks.open_copy("rp-2") if suffix else storage.disks.open_at(replica("rp-2"), "rp-2"))
    await storage.disks.tidy(["rp-5"])
    # What is above it is merged all the same: a copy may stay for days.
    assert storage.files() == {"rp-1", "rp-2", "rp-5", suffix}
    assert storage.hold(suffix, 0, 1, 2, 0)
    assert storage.hold("rp-5", 0, 1, 2, 3, 4, 5)
    await (storage.disks.discard_copy() if suffix else storage.disks.discard())
    await storage.disks.tidy(["rp-5"])
    assert storage.files() == {"rp-5"}
    assert storage.hold("rp-5", 0, 1, 2, 3, 4, 5)


async def test_a_copy_outlives_a_full_copy_under_it(storage: Storage) -> None:
    await storage.deliver(1, 1)
    await storage.disks.open_copy("rp-1")
    await storage.deliver(9, 2)
    await storage.disks.tidy(["rp-2"])
    assert storage.files() == {"rp-1", "rp-2", "test"}
    assert storage.hold("test", 1)
    assert storage.hold("rp-2", 9)


async def test_files_of_others_are_left_alone(storage: Storage) -> None:
    await storage.deliver(1, 1)
    directory = storage.paths[0].parent
    endings = (".bak", ".rp-1.bak", ".rp-x", "2", "2.rp-3", ".test.1")
    others = {directory / "vdXb.qcow2.rp-9", *(directory / f"vda.qcow2{ending}" for ending in endings)}
    for path in others:
        run("qemu-img", "create", "-q", "-f", "qcow2", str(path), "1M")
    await storage.disks.tidy([])
    await storage.disks.drop_deliveries()
    assert set(directory.iterdir()) == others


async def test_a_failover_leaves_its_recovery_point_as_it_is(storage: Storage) -> None:
    for number in (1, 2):
        await storage.deliver(number, number, upon=number - 1)
    record = replica("rp-1", "rp-2")
    await storage.disks.open_at(record, "rp-1")
    assert storage.hold("", 1)
    for path in storage.paths:
        write(path, 8)
    assert storage.hold("rp-1", 1)
    for _ in range(2):
        await storage.disks.discard()
        assert storage.files() == {"rp-1", "rp-2"}
    await storage.disks.open_at(record, "rp-2")
    assert storage.hold("", 2)


async def test_what_was_written_is_kept_where_the_failover_is_asked_for_again(storage: Storage) -> None:
    await storage.deliver(1, 1)
    await storage.disks.open_at(replica("rp-1"), "rp-1")
    write(storage.paths[0], 8)
    await storage.disks.open_at(replica("rp-1"), "rp-1")
    assert holds(storage.paths[0], 8)


async def test_another_point_than_that_of_a_failover_that_was_cut_short(storage: Storage) -> None:
    for number in (1, 2):
        await storage.deliver(number, number, upon=number - 1)
    await storage.disks.open_at(replica("rp-1", "rp-2"), "rp-1")
    storage.paths[1].unlink()
    await storage.disks.open_at(replica("rp-1", "rp-2"), "rp-2")
    assert storage.hold("", 2)


async def test_the_newest_point_is_opened_with_its_changes_noted(storage: Storage) -> None:
    for number in (1, 2):
        await storage.deliver(number, number, upon=number - 1)
    record = replica("rp-1", "rp-2")
    await storage.disks.open_at(record, "rp-1")
    assert await storage.disks.bitmaps() == frozenset()
    await storage.disks.discard()
    await storage.disks.open_at(record, "rp-2")
    assert await storage.disks.bitmaps() == {"cp-7"}


async def test_a_point_that_is_missing_is_named(storage: Storage) -> None:
    await storage.deliver(1, 1)
    with pytest.raises(StepFailed, match=r"vda\.qcow2\.rp-2 is missing on d1"):
        await storage.disks.open_at(replica("rp-2"), "rp-2")
    with pytest.raises(StepFailed, match=r"vda\.qcow2\.rp-2 is missing on d1"):
        await storage.deliver(1, 3, upon=2)


@pytest.mark.parametrize("suffix", ["", "locked"])
async def test_a_primary_becomes_a_recovery_point(storage: Storage, suffix: str) -> None:
    storage.make(suffix, 5)
    for path in storage.paths:
        for bitmap in ("cp-3", "--help"):  # a name may look like an option, and is none
            run("qemu-img", "bitmap", "--add", "--", f"{path}.{suffix}" if suffix else str(path), bitmap)
    for _ in range(2):
        await storage.disks.become_point("rp-4")
        assert storage.files() == storage.files(1) == {"rp-4"}
    assert storage.hold("rp-4", 5)
    for path in storage.paths:
        assert "cp-3" not in described(f"{path}.rp-4")
        assert "--help" not in described(f"{path}.rp-4")


async def test_a_primary_that_was_a_replica_becomes_one_whole_point(storage: Storage) -> None:
    for number in range(1, 4):
        await storage.deliver(number, number, upon=number - 1, at=number)
    await storage.disks.open_at(replica("rp-1", "rp-2"), "rp-2")
    for path in storage.paths:
        write(path, 8, 5)
    await storage.disks.lock()
    await storage.disks.become_point("rp-4")
    await storage.disks.tidy(["rp-4"])
    assert storage.files() == {"rp-4"}
    assert storage.hold("rp-4", 0, 1, 2, 0, 0, 8)


async def test_what_was_set_aside_stays_until_it_is_not_needed(storage: Storage) -> None:
    for number in (1, 2):
        await storage.deliver(number, number, upon=number - 1, at=number)
    await storage.disks.open_at(replica("rp-1", "rp-2"), "rp-2")
    for _ in range(2):
        await storage.disks.set_aside()
    await storage.deliver(9, 3)
    await storage.disks.tidy(["rp-3"])
    assert storage.hold("old", 0, 1, 2)
    await storage.disks.tidy(["rp-3"], keep_old=False)
    assert storage.files() == {"rp-3"}


async def test_deliveries_do_not_get_in_each_others_way(storage: Storage) -> None:
    for delivery, pattern in (("a", 1), ("b", 2)):
        for index in range(2):
            incoming = storage.disks.incoming(index, delivery)
            run("qemu-img", "create", "-q", "-f", "qcow2", incoming, "8M")
            write(incoming, pattern)
    first, second = await storage.disks.digests("b")
    assert len(first) == 64
    assert first == second != (await storage.disks.digests("a"))[0]
    assert await storage.disks.digests("c") == ("", "")
    write(storage.disks.incoming(0, "a"), 3)
    run("mv", storage.disks.incoming(0, "a"), f"{storage.disks.incoming(0, 'a')}.part")
    await storage.disks.take_in("b", "rp-1", upon="")
    assert storage.hold("rp-1", 2)
    await storage.disks.drop_deliveries()
    assert storage.files() == {"rp-1"}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["-f", "raw"], id="raw"),
        pytest.param(["-f", "qcow2", "-o", "data_file=FILE,data_file_raw=on"], id="data-elsewhere"),
        pytest.param(["-f", "qcow2", "-u", "-b", "/etc/hostname", "-F", "raw"], id="upon-a-file"),
    ],
)
async def test_what_reaches_for_files_of_the_node_is_not_taken_in(
    storage: Storage, options: list[str], tmp_path: Path
) -> None:
    for index in range(2):
        command = [word.replace("FILE", str(tmp_path / f"data-{index}")) for word in options]
        run("qemu-img", "create", "-q", *command, storage.disks.incoming(index, "a"), "8M")
    with pytest.raises(StepFailed, match="not what a cycle delivers"):
        await storage.disks.take_in("a", "rp-1", upon="")
    assert "rp-1" not in storage.files()


@pytest.mark.parametrize("left", ["locked", "old", "rp-3"])
async def test_a_primary_gets_its_disks_back_after_a_crash(storage: Storage, left: str) -> None:
    storage.make("", 5)
    storage.paths[1].rename(f"{storage.paths[1]}.{left}")
    record = replica("rp-1", "rp-2", mode=ReplicationMode.PRIMARY, state=ReplicationState.REPLICATING)
    await storage.disks.repair(record)
    assert storage.files() == storage.files(1) == {""}
    prepared = replace(record, end=replace(record.end, state=ReplicationState.PREPARED))
    await storage.disks.repair(prepared)
    assert storage.files() == storage.files(1) == {"locked"}


async def test_a_replica_has_no_disk_to_run_from_after_a_crash(storage: Storage) -> None:
    await storage.deliver(1, 1)
    record = replica("rp-1")
    await storage.disks.open_at(record, "rp-1")
    await storage.disks.repair(replace(record, end=replace(record.end, state=ReplicationState.FAILED_OVER)))
    assert storage.files() == {"", "rp-1"}
    storage.paths[1].unlink()
    await storage.disks.repair(record)
    assert storage.files() == storage.files(1) == {"rp-1"}
    storage.make("", 5)
    await storage.disks.repair(record)
    assert storage.files() == {"", "rp-1"}, "what somebody put there is not ours to remove"


async def test_sizes_are_those_of_the_newest_there_is(storage: Storage) -> None:
    await storage.deliver(1, 1)
    assert await storage.disks.sizes() == (8 * MIB, 8 * MIB)
    await storage.disks.open_at(replica("rp-1"), "rp-1")
    run("qemu-img", "resize", "-q", str(storage.paths[0]), "16M")
    assert await storage.disks.sizes() == (16 * MIB, 8 * MIB)


async def test_whatever_writes_leaves_traces(storage: Storage) -> None:
    storage.make()
    before = await storage.disks.traces()
    await storage.disks.bitmaps()
    assert await storage.disks.traces() == before
    with in_use(storage.paths[1]):
        pass
    write(storage.paths[1], 1)
    assert await storage.disks.traces() != before


async def test_a_point_is_merged_whenever_the_work_is_cut_short(storage: Storage) -> None:
    for number in range(1, 5):
        await storage.deliver(number, number, upon=number - 1, at=number)
    for turn in range(12):
        task = asyncio.create_task(storage.disks.tidy(["rp-4"]))
        await asyncio.wait({task}, timeout=0.01 * turn)
        task.cancel()
        await asyncio.wait({task})
        assert storage.hold("rp-4", 0, 1, 2, 3, 4)
    await storage.disks.tidy(["rp-4"])
    assert storage.files() == storage.files(1) == {"rp-4"}
