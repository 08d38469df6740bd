"""The files of a VM's disks. Which of them exist is what says whether the VM may run.

For a disk at P, which is the path in the domain's XML and the same on all nodes of a site:

    P                 the disk of a VM that may run here; a replica has none, so that nobody can start it
    P.rp-<n>          recovery point n of a replica: what has changed since the point before, which lies under it; the
                      oldest one is whole
    P.locked          the disk of a primary that is prepared for its planned failover
    P.old             the disk of an overtaken primary, until its copy has arrived whole
    P.test            the disk of a test copy, upon a recovery point
    P.incoming-<id>   arriving, not a recovery point yet
    P.delta-<n>       what cycle n is to send

All functions do all disks of a VM, may be asked again after a crash at any moment, and rest on a rename being all or
nothing. Files change first and the record follows: what a record names is there, and what is there without being named
goes with the next `tidy`. QEMU locks the images that it uses, so that what a VM runs from is never taken from it here,
whatever records say.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import PurePosixPath

from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.domain.transitions import FAILED_OVER
from failover_orch.errors import StepFailed
from failover_orch.hypervisors.libvirt.images import (
    Image,
    beside,
    images,
    move,
    names_beside,
    remove,
    require_unused,
)
from failover_orch.hypervisors.libvirt.nodes import Node
from failover_orch.hypervisors.libvirt.record import Record

__all__ = ["Disks", "checkpoint_name", "copy_path", "delta_path"]

_LOCKED, _OLD, _COPY, _NEW = "locked", "old", "test", "new"
_POINT, _INCOMING, _DELTA = "rp-", "incoming-", "delta-"
_OVERLAYS = ("", _LOCKED, _OLD, _COPY)
"""What may stand upon a recovery point besides the next one."""
_OURS = re.compile(rf"{_LOCKED}|{_OLD}|{_COPY}|{_POINT}[0-9]+|{_INCOMING}[0-9a-z.-]+|{_DELTA}[0-9]+")
"""What follows the disk's path and a dot in the names of our files. Other files beside the disk are none of ours."""
_LONG_S = 3600.0


def copy_path(path: str) -> str:
    """The disk of a test copy whose VM has its disk at `path`."""
    return f"{path}.{_COPY}"


def delta_path(path: str, cycle: int) -> str:
    """Where what a cycle is to send of the disk at `path` is put together."""
    return f"{path}.{_DELTA}{cycle}"


def checkpoint_name(cycle: int) -> str:
    """The checkpoint, and the bitmap in each disk, that a cycle leaves: it holds what was written since."""
    return f"cp-{cycle}"


class Disks:
    """The disks of one VM, as one node has them.

    Every function raises StepFailed where it could not be done: with what is missing, or is in use.
    """

    def __init__(self, node: Node, paths: Sequence[str]) -> None:
        """`paths`: those in the domain's XML, in its order."""
        self._node = node
        self._paths = tuple(paths)

    # The VM itself

    async def lock(self) -> None:
        """Take the disks of a VM that is off from whoever would start it."""
        await self._rename("", _LOCKED)

    async def unlock(self) -> None:
        """Undo `lock`."""
        await self._rename(_LOCKED, "")

    async def set_aside(self) -> None:
        """Put the disks of an overtaken primary where nobody starts it from, until its copy has arrived."""
        await self._rename("", _OLD, replace=True)

    async def open_at(self, record: Record, point_id: str) -> None:
        """Give the VM disks that stand upon the recovery point: what it writes leaves the point as it is.

        On the newest point they note from the first write on what is changed, for a way back without a full copy.
        """
        points = record.end.recovery_points
        newest = bool(points) and points[-1].point_id == point_id
        await self._stand("", point_id, checkpoint_name(record.cycle) if newest else "")

    async def discard(self) -> None:
        """Have no disks that the VM could run from: what it wrote since its failover is gone."""
        await self._discard("")

    async def become_point(self, point_id: str) -> None:
        """Make the disks of a primary, locked or not, a replica's recovery point."""
        there = await self._there()
        moves: list[tuple[str, str]] = []
        for path in self._paths:
            source = next((suffix for suffix in (_LOCKED, "") if suffix in there[path]), None)
            if source is not None:
                moves.append((_joined(path, source), _joined(path, point_id)))
            elif point_id not in there[path]:
                raise self._missing(path, _LOCKED)
        sources = [source for source, _ in moves]
        await require_unused(self._node, sources)
        for image in await images(self._node, sources):
            for bitmap in sorted(image.bitmaps):
                # It notes changes that nobody asks for any more, and every write would go on being noted.
                await self._node.run("qemu-img", "bitmap", "--remove", "--", image.path, bitmap)
        await move(self._node, moves)

    async def bitmaps(self) -> frozenset[str]:
        """The bitmaps that every disk of the VM has, as far as they are in the files."""
        found = await images(self._node, self._paths)
        return frozenset.intersection(*(image.bitmaps for image in found)) if found else frozenset()

    async def sizes(self) -> tuple[int, ...]:
        """How large the VM takes its disks to be, in bytes: of a replica, as of its newest point."""
        there = await self._there()
        tops: list[str] = []
        for path in self._paths:
            points = sorted(filter(_number, there[path]), key=_number, reverse=True)
            tops += [_joined(path, suffix) for suffix in ("", _LOCKED, *points, _OLD) if suffix in there[path]][:1]
        return tuple(image.size for image in await images(self._node, tops))

    async def traces(self) -> tuple[str, ...]:
        """What is no longer the same once anything has written to the VM's disks: the state of the files themselves."""
        found = await self._node.run("stat", "--format=%i %s %y %z", "--", *self._paths)
        return tuple(found.decode().splitlines())

    # A test copy

    async def open_copy(self, point_id: str) -> None:
        """Give a test copy disks upon the recovery point."""
        await self._stand(_COPY, point_id, "")

    async def discard_copy(self) -> None:
        """Have no disks of a test copy."""
        await self._discard(_COPY)

    # What arrives, and what is to be sent

    async def prepare_to_receive(self) -> None:
        """Make the directories that the disks of a new replica go to."""
        await self._node.run("mkdir", "-p", "--", *self._directories())

    def incoming(self, index: int, delivery: str) -> str:
        """Where a disk of a delivery goes as it arrives; `index` counts from 0."""
        return _joined(self._paths[index], f"{_INCOMING}{delivery}")

    async def digests(self, delivery: str) -> tuple[str, ...]:
        """The SHA-256 of each disk of a delivery, in hexadecimal; empty for one that has not arrived."""
        there = await self._there()
        arrived = [_joined(path, name) for path in self._paths if (name := f"{_INCOMING}{delivery}") in there[path]]
        found: dict[str, str] = {}
        if arrived:
            # `-z` ends each line with a NUL, and so leaves names as they are.
            lines = (await self._node.run("sha256sum", "-z", "--", *arrived, within_s=_LONG_S)).decode()
            found = {line[66:]: line[:64] for line in lines.split("\0") if line}
        return tuple(found.get(self.incoming(index, delivery), "") for index in range(len(self._paths)))

    async def take_in(self, delivery: str, point_id: str, *, upon: str) -> None:
        """Make a delivery that has arrived whole the recovery point `point_id`, upon the point before.

        `upon` empty: the delivery is a full copy. The points that there are stay until `tidy`.
        """
        arrived = [self.incoming(index, delivery) for index in range(len(self._paths))]
        for image in await images(self._node, arrived):
            # The other site is trusted with its VM's disks, and not with the files of this node.
            if image.format != "qcow2" or image.data_elsewhere or (image.under and not upon):
                raise StepFailed(f"{image.path} is not what a cycle delivers: it has to be one qcow2 file, and whole")
        if upon:
            there = await self._there()
            for path, incoming in zip(self._paths, arrived, strict=True):
                if upon not in there[path]:
                    raise self._missing(path, upon)
                under = beside(_joined(path, upon))
                await self._node.run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", under, incoming)
        await move(self._node, [(new, _joined(path, point_id)) for path, new in zip(self._paths, arrived, strict=True)])

    async def drop_deliveries(self) -> None:
        """Forget whatever is arriving, or has arrived and was not taken in."""
        await self._remove_all(_INCOMING)

    async def make_deltas(self, cycle: int) -> None:
        """Make empty images for what a cycle is to send, and forget any others."""
        await self.drop_deltas()
        for path, size in zip(self._paths, await self.sizes(), strict=True):
            await self._node.run("qemu-img", "create", "-q", "-f", "qcow2", delta_path(path, cycle), str(size))

    async def drop_deltas(self) -> None:
        """Forget what was put together for sending."""
        await self._remove_all(_DELTA)

    # Recovery points

    async def keep_only(self, points: Collection[str]) -> None:
        """Keep the recovery points of these ids, and what the VM or a test copy stands upon. See `tidy`."""
        await self.tidy(points)

    async def tidy(self, points: Collection[str], *, keep_old: bool = True) -> None:
        """Remove recovery points that nothing stands upon, and merge those that are not kept into the next ones.

        `keep_old`: what was set aside stays. Nothing is merged at or below what a VM or a test copy stands upon. May
        take long, and may be cut short at any moment.
        """
        if not keep_old:
            await remove(self._node, [_joined(path, _OLD) for path in self._paths])
        there = await self._there()
        for path in self._paths:
            names = [suffix for suffix in there[path] if suffix in _OVERLAYS or _number(suffix)]
            found = {image.path: image for image in await images(self._node, [_joined(path, name) for name in names])}
            held = set(_chains((_joined(path, suffix) for suffix in _OVERLAYS), found))
            kept = {_joined(path, point_id) for point_id in points}
            chained = held | set(_chains(kept, found))
            await remove(self._node, [name for name in found if name not in chained])
            await self._merge([found[name] for name in chained], kept, held)

    async def _merge(self, chained: Iterable[Image], kept: Collection[str], held: AbstractSet[str]) -> None:
        """Merge each image that is neither kept nor stood upon by several into the one that stands upon it.

        The upper one is written into the lower one, which then takes its name: until that rename the upper one says
        all that matters, however often, or half, it was written down.
        """
        above: dict[str, list[str]] = {}
        paths = []
        for image in chained:
            above.setdefault(image.under, []).append(image.path)
            paths.append(image.path)
        for lower in sorted(paths, key=_number):
            upper = above.get(lower, [])
            if lower not in kept and len(upper) == 1 and held.isdisjoint((lower, *upper)):
                await self._node.run("qemu-img", "commit", "-q", "-d", upper[0], within_s=_LONG_S)
                await move(self._node, [(lower, upper[0])])

    async def repair(self, record: Record) -> None:
        """Bring the files in line with the record, which a crash may have kept from following them.

        What an action had begun is undone: it is asked for again, or was not meant to be.
        """
        there = await self._there()
        end = record.end
        if end.mode is ReplicationMode.REPLICA:
            if end.state not in FAILED_OVER:
                opened = await images(self._node, [path for path in self._paths if "" in there[path]])
                # A disk that somebody put there by hand stands upon no point of ours.
                ours = [image.path for image in opened if _number(image.under)]
                await require_unused(self._node, ours)
                await remove(self._node, ours)
            return
        wanted = _LOCKED if end.state is ReplicationState.PREPARED else ""
        # Where an action was cut short, in the order of what it is likeliest to have left.
        begun = ("", _LOCKED, _OLD, f"{_POINT}{end.points_taken + 1}")
        moves: list[tuple[str, str]] = []
        for path in self._paths:
            found = next((suffix for suffix in begun if suffix in there[path]), wanted)
            if wanted not in there[path] and found != wanted:
                moves.append((_joined(path, found), _joined(path, wanted)))
        await require_unused(self._node, [source for source, _ in moves])
        await move(self._node, moves)

    # The files

    async def _rename(self, now: str, then: str, *, replace: bool = False) -> None:
        there = await self._there()
        moves: list[tuple[str, str]] = []
        for path in self._paths:
            if now not in there[path]:
                if then not in there[path]:
                    raise self._missing(path, now)
                continue
            if then in there[path] and not replace:
                raise StepFailed(
                    f"both {_joined(path, now)} and {_joined(path, then)} are on {self._node.name}: look which of them "
                    "is the VM's disk, and put the other one elsewhere"
                )
            moves.append((_joined(path, now), _joined(path, then)))
        await require_unused(self._node, [source for source, _ in moves])
        await move(self._node, moves)

    async def _stand(self, suffix: str, point_id: str, bitmap: str) -> None:
        there = await self._there()
        present = [_joined(path, suffix) for path in self._paths if suffix in there[path]]
        under = {image.path: image.under for image in await images(self._node, present)}
        moves: list[tuple[str, str]] = []
        for path in self._paths:
            overlay, point = _joined(path, suffix), _joined(path, point_id)
            if point_id not in there[path]:
                raise self._missing(path, point_id)
            if under.get(overlay) != point:
                new = f"{overlay}.{_NEW}"
                await self._node.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", beside(point), new)
                if bitmap:
                    await self._node.run("qemu-img", "bitmap", "--add", new, bitmap)
                moves.append((new, overlay))
        # Another failover that did not come to its record may have left disks upon another point: never run, unused.
        await require_unused(self._node, [overlay for _, overlay in moves if overlay in under])
        await move(self._node, moves)

    async def _discard(self, suffix: str) -> None:
        there = await self._there()
        overlays = [_joined(path, suffix) for path in self._paths if suffix in there[path]]
        await require_unused(self._node, overlays)
        await remove(self._node, overlays)

    async def _there(self) -> Mapping[str, frozenset[str]]:
        """Which files of ours there are: for each disk what follows its path, the disk itself being the empty text."""
        names = await names_beside(self._node, self._paths)
        return {
            path: frozenset(
                name.removeprefix(path).removeprefix(".")
                for name in names
                if name == path or (name.startswith(f"{path}.") and _OURS.fullmatch(name, len(path) + 1))
            )
            for path in self._paths
        }

    async def _remove_all(self, kind: str) -> None:
        there = await self._there()
        await remove(
            self._node,
            [_joined(path, suffix) for path in self._paths for suffix in there[path] if suffix.startswith(kind)],
        )

    def _directories(self) -> list[str]:
        return sorted({str(PurePosixPath(path).parent) for path in self._paths})

    def _missing(self, path: str, suffix: str) -> StepFailed:
        return StepFailed(
            f"{_joined(path, suffix)} is missing on {self._node.name}: if its storage is mounted there, the disk was "
            "removed or renamed by somebody else, and has to be put back"
        )


def _joined(path: str, suffix: str) -> str:
    return f"{path}.{suffix}" if suffix else path


def _number(name: str) -> int:
    """The number of the recovery point that a file holds; 0 for any other file."""
    digits = name.rpartition(_POINT)[2]
    return int(digits) if name.endswith(f"{_POINT}{digits}") and digits.isdecimal() else 0


def _chains(tops: Iterable[str], found: Mapping[str, Image]) -> Iterator[str]:
    """These images and all that they stand upon."""
    for top in tops:
        name = top
        while name in found:
            yield name
            name = found[name].under
