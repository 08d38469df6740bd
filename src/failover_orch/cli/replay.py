"""`failover-orch replay`: what real hosts once reported, sent through the broker for people to see."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Table

from failover_orch.cli.access import codec_for, publisher_for, show_table, table
from failover_orch.cli.access import run as do
from failover_orch.cli.common import Bootstrap, console
from failover_orch.config import Settings
from failover_orch.contract import Codec, state_topic
from failover_orch.domain import RouteCause, RoutingUpdate, VmMoved
from failover_orch.errors import ConfigError, LookupFailed
from failover_orch.hypervisors.libvirt import moves, read_events
from failover_orch.wire import Received, follow, read_to_end

__all__ = ["Truth", "replay", "schedule"]

_SILENCE_S = 10.0
_COLUMNS = ("VM", "name", "node", "epoch", "moves")

Delay = Annotated[
    list[str] | None,
    typer.Option("--delay", metavar="NODE=SECONDS", help="Send a node's events that much later; may be repeated."),
]


def replay(
    file: Annotated[Path, typer.Argument(help="A recording of libvirt events, JSON lines.")],
    truth: Annotated[
        Path | None,
        typer.Option(
            help="Where the VMs ended up.  [default: FILE's name with .truth.json, if there]", show_default=False
        ),
    ] = None,
    delay: Delay = None,
    double: Annotated[bool, typer.Option("--double", help="Send every event twice.")] = False,
    site: Annotated[str, typer.Option(help="The site that the recorded hosts belong to.")] = "dr",
    speed: Annotated[float, typer.Option(min=0, help="1: as it happened; 10: ten times as fast; 0: at once.")] = 0,
    timeout: Annotated[
        float, typer.Option(min=0, help="Give up when the broker takes nothing for this many seconds. 0: never.")
    ] = 60,
    bootstrap: Bootstrap = None,
) -> None:
    """Send a recording of libvirt events through the broker and watch the table of VMs follow.

    The recording is translated to VM-moved events as a site agent would. Ends when a worker has taken every one of
    them. Sending the same recording again changes nothing: the broker knows each event by its node's numbering.

    Exit codes: 0 the VMs are where the truth file says, or there is none; 1 they are not, or an error.
    """

    async def work(config: Settings) -> None:
        recorded = list(moves(read_events(file), site=site))
        if not recorded:
            raise ConfigError(f"{file} tells of no VM that moved: nothing to replay")
        known = Truth.read(truth or file.with_suffix(".truth.json"), required=truth is not None)
        sent = list(schedule(recorded, _delays(delay or [], recorded), double=double))
        await _replay(config, _Board(site, known), sent, speed, timeout)

    do(bootstrap, work)


@dataclass(frozen=True, slots=True)
class Truth:
    """Where a recording's VMs ended up, by id, and what they are called. Empty where nobody has written it down."""

    final: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, *, required: bool) -> Truth:
        """Read `{"final": {vm: node}, "vms": {vm: name}}`; a file that is not there counts as empty unless required.

        Raises:
            ConfigError: the file cannot be read, or holds something else.

        """
        if not required and not path.exists():
            return cls()
        try:
            written = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read as JSON: {error}") from None
        return cls(_texts(path, written, "final"), _texts(path, written, "vms"))


def _texts(path: Path, written: object, name: str) -> dict[str, str]:
    part = written.get(name, {}) if isinstance(written, dict) else None
    if not isinstance(part, dict) or not all(isinstance(value, str) for value in part.values()):
        raise ConfigError(f"{path}: field {name!r}: expected an object of texts by VM id")
    return part


def schedule(
    recorded: Iterable[VmMoved], delays: Mapping[str, float], *, double: bool
) -> Iterator[tuple[float, VmMoved]]:
    """When to send each move, in seconds from the start, in that order. `delays` are seconds by node.

    A node's own events keep their order; between nodes, delays change it.
    """
    due = [(move.occurred_at_ms / 1000 + delays.get(move.node, 0.0), move) for move in recorded]
    due.sort(key=lambda pair: pair[0])
    for at, move in due:
        for _ in range(2 if double else 1):
            yield at - due[0][0], move


def _delays(given: Sequence[str], recorded: Iterable[VmMoved]) -> dict[str, float]:
    nodes = {move.node for move in recorded}
    delays = {}
    for text in given:
        node, _, seconds = text.partition("=")
        if node not in nodes:
            raise ConfigError(f"--delay {text}: the recording has no node {node!r}, but {', '.join(sorted(nodes))}")
        try:
            delays[node] = float(seconds)
        except ValueError:
            raise ConfigError(f"--delay {text}: {seconds!r} is no number; expected NODE=SECONDS") from None
        if not 0 <= delays[node] < float("inf"):
            raise ConfigError(f"--delay {text}: expected 0 seconds or more")
    return delays


class _Board:
    """Where the recording's VMs are, by the routing updates read so far."""

    def __init__(self, site: str, truth: Truth) -> None:
        self.truth = truth
        self._site = site
        self._latest: dict[str, RoutingUpdate] = {}
        self._moves: dict[str, int] = {}
        self._vms: list[str] = list(truth.final)

    def expect(self, vm_ids: Iterable[str]) -> None:
        """Show these VMs, and no others."""
        self._vms = list(dict.fromkeys(vm_ids))

    def take(self, codec: Codec, records: Iterable[Received]) -> None:
        for record in records:
            update = codec.decode_from(record.topic, record.value) if record.value is not None else None
            if not isinstance(update, RoutingUpdate) or update.vm_id not in self._vms:
                continue
            known = self._latest.get(update.vm_id)
            if known is None or update.epoch > known.epoch:
                self._latest[update.vm_id] = update
                self._moves[update.vm_id] = self._moves.get(update.vm_id, 0) + (update.cause is RouteCause.LIVE)

    def epochs(self) -> dict[str, int]:
        return {vm_id: update.epoch for vm_id, update in self._latest.items()}

    def moves(self) -> int:
        return sum(self._moves.values())

    def node(self, vm_id: str) -> str:
        update = self._latest.get(vm_id)
        here = next((place for place in update.locations if place.site == self._site), None) if update else None
        return here.node if here else ""

    def rows(self) -> list[tuple[object, ...]]:
        return [
            (
                vm_id,
                self.truth.names.get(vm_id, ""),
                self.node(vm_id) or "not known",
                self.epochs().get(vm_id, ""),
                self._moves.get(vm_id, 0),
            )
            for vm_id in self._vms
        ]

    def differences(self) -> list[str]:
        """What is not as the truth says, one sentence each."""
        return [
            f"{self.truth.names.get(vm_id, vm_id)} is on {self.node(vm_id) or 'no known node'}, and should be on {node}"
            for vm_id, node in self.truth.final.items()
            if self.node(vm_id) != node
        ]


async def _replay(
    config: Settings, board: _Board, sent: Sequence[tuple[float, VmMoved]], speed: float, timeout_s: float
) -> None:
    codec = codec_for(config)
    vm_ids = [move.vm_id for _, move in sent]
    board.expect(vm_ids)
    await _read(config, codec, board)
    before, moves_before = board.epochs(), board.moves()
    with _display(board) as refresh:
        following = asyncio.create_task(_follow(config, codec, board, refresh))
        try:
            await _publish(config, sent, speed)
            await _taken(config, {vm_id.encode() for vm_id in vm_ids}, timeout_s)
        finally:
            following.cancel()
            await asyncio.wait([following])
        # What was taken is told in the same transaction, so it all is there by now.
        await _read(config, codec, board)
        refresh()
    show_table("", _COLUMNS, board.rows())
    if board.epochs() == before:
        typer.echo(f"{len(sent)} events sent, and nothing changed: the broker had known them all")
    else:
        typer.echo(f"{len(sent)} events sent, {board.moves() - moves_before} live moves told")
    for difference in board.differences():
        typer.echo(difference)
    if board.differences():
        raise typer.Exit(1)
    if board.truth.final:
        typer.echo("every VM is where the truth file says")


async def _publish(config: Settings, sent: Sequence[tuple[float, VmMoved]], speed: float) -> None:
    async with publisher_for(config) as publisher:
        if not speed:
            await publisher.publish(*(move for _, move in sent))
            return
        began = time.monotonic()
        for at, move in sent:
            await asyncio.sleep(max(0.0, began + at / speed - time.monotonic()))
            await publisher.publish(move)


async def _read(config: Settings, codec: Codec, board: _Board) -> None:
    async for records in read_to_end(config.bootstrap, ("routing-updates",), names=config.names):
        board.take(codec, records)


async def _follow(config: Settings, codec: Codec, board: _Board, refresh: Callable[[], None]) -> None:
    async with aclosing(follow(config.bootstrap, ("routing-updates",), names=config.names)) as updates:
        async for records in updates:
            board.take(codec, records)
            refresh()


async def _taken(config: Settings, keys: set[bytes], timeout_s: float) -> None:
    """Wait until workers have taken the last `vm-moved` record of every key.

    By the workers' own account in the state topic, not the group's committed offsets: those come a second later, and
    after a rebalance can be ahead of the work.

    Raises:
        LookupFailed: nothing more was taken for `timeout_s` seconds (0: never).

    """
    waiting: dict[int, int] = {}
    async for records in read_to_end(config.bootstrap, ("vm-moved",), names=config.names):
        ours = [record for record in records if record.topic == "vm-moved" and record.key in keys]
        waiting |= {record.partition: record.offset for record in ours}
    state = state_topic(config.app_id)
    progress = time.monotonic()
    said = False
    async with aclosing(follow(config.bootstrap, (state,), names=config.names)) as changes:
        upcoming = asyncio.ensure_future(anext(changes))
        try:
            while waiting:
                done, _ = await asyncio.wait([upcoming], timeout=0.5)
                taken = _done_with(waiting, upcoming.result()) if done else []
                for partition in taken:
                    del waiting[partition]
                if done:
                    upcoming = asyncio.ensure_future(anext(changes))
                silent_s = 0.0 if taken else time.monotonic() - progress
                progress = time.monotonic() if taken else progress
                if silent_s > _SILENCE_S and not said:
                    said = True
                    typer.echo("no worker takes the events: is one running? (`failover-orch worker`)", err=True)
                if timeout_s and silent_s > timeout_s:
                    raise LookupFailed(
                        f"no worker took the events within {timeout_s:g} s: start one with `failover-orch worker` and "
                        "replay again, or give it longer with --timeout"
                    )
        finally:
            upcoming.cancel()
            await asyncio.wait([upcoming])


def _done_with(waiting: Mapping[int, int], changes: Iterable[Received]) -> list[int]:
    """The partitions whose last event is among those that the workers say they have applied."""
    done = {}
    for record in changes:
        if record.key == b"applied" and record.value is not None:
            applied = json.loads(record.value).get("vm-moved", -1)
            done[record.partition] = record.partition in waiting and applied >= waiting[record.partition]
    return [partition for partition, is_done in done.items() if is_done]


@contextmanager
def _display(board: _Board) -> Iterator[Callable[[], None]]:
    """A table that follows at a terminal; nothing elsewhere, where the end alone is of use."""
    if not console.is_terminal:
        yield lambda: None
        return

    def shown() -> Table:
        return table("", _COLUMNS, board.rows())

    with Live(shown(), console=console, auto_refresh=False, transient=True) as live:
        yield lambda: live.update(shown(), refresh=True)
