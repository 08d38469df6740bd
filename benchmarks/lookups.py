"""Lookups of routes at a steady rate, of two service processes, while VMs move."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx
from aiokafka import AIOKafkaProducer

from benchmarks.lookup_client import Task, run_apart
from benchmarks.stage import Result, Stage
from failover_orch.domain import AccessRole, Grant, MoveKind, VmMoved
from failover_orch.kafka import LocalKafka
from failover_orch.service.access import mint
from failover_orch.wire import now_ms

__all__ = ["measure"]

_RATE = 5_000
_MOVES_PER_SECOND = 200
_TOLD_PER_SECOND = 20
"""Each telling is a transaction of the worker's, and a fetch of every reader's: one move at a time, 200 times a second,
takes what two cores leave for lookups, which then fall due faster than they are answered."""
_TOKEN_HOLDS_MS = 3_600_000
_PATIENCE_S = 60.0
_GUARANTEE = "never older than one given before"


async def measure(kafka: LocalKafka, scale: float) -> list[Result]:
    """`scale` 1: 5,000 lookups a second of 10,000 VMs for 60 seconds, of which 200 move in each."""
    vm_ids = [f"vm-{number:05d}" for number in range(max(100, int(10_000 * scale)))]
    seconds = max(5.0, 60 * scale)
    stage = Stage(kafka)
    await stage.make_topics()
    token, record = mint(
        "primaries",
        (Grant(AccessRole.VIEWER),),
        actor="alice",
        reason="a benchmark",
        now_ms=now_ms(),
        lifetime_ms=_TOKEN_HOLDS_MS,
    )
    await stage.publish([record, *(_move(vm_id, 0) for vm_id in vm_ids)])
    ports = _free_ports(2)
    with stage.worker(), ExitStack() as stack:
        await stage.until_applied("vm-moved", len(vm_ids))
        services = [stack.enter_context(stage.process("serve", "--port", str(port))) for port in ports]
        await _ready(ports)
        moving = asyncio.create_task(_move_on(stage, vm_ids))
        try:
            task = Task(
                {f"service {port}": port for port in ports}, vm_ids, _RATE, seconds, hot=len(vm_ids) // 20, token=token
            )
            before_s = _processor_s(services)
            findings = await run_apart(task)
            processor_s = _processor_s(services) - before_s
        finally:
            moving.cancel()
            await asyncio.gather(moving, return_exceptions=True)
    if findings.wrong or findings.undocumented:
        raise RuntimeError(f"{findings.statuses}: {(findings.wrong + findings.undocumented)[:5]}")
    routes = findings.statuses.get(200, 0) / findings.answers
    at = f"of {_RATE} lookups/s, {len(vm_ids)} VMs, {_MOVES_PER_SECOND} moves/s told {_TOLD_PER_SECOND} times a second"
    return [
        Result(f"{at}: answered", findings.rate, "lookups/s", _GUARANTEE),
        Result(f"{at}: answered with a route, not with 503", routes, "share", _GUARANTEE),
        Result(f"{at}: p50", findings.p50_ms, "ms", _GUARANTEE),
        Result(f"{at}: p99", findings.p99_ms, "ms", _GUARANTEE),
        Result(
            f"{at}: processor time of the services", processor_s / findings.answers * 1e6, "us a lookup", _GUARANTEE
        ),
    ]


async def _ready(ports: Sequence[int]) -> None:
    """Wait until each service can answer."""
    async with httpx.AsyncClient() as client, asyncio.timeout(_PATIENCE_S):
        for port in ports:
            while not await _says_so(client, port):  # noqa: ASYNC110 (another process becomes it)
                await asyncio.sleep(0.1)


async def _says_so(client: httpx.AsyncClient, port: int) -> bool:
    try:
        return (await client.get(f"http://127.0.0.1:{port}/readyz")).is_success
    except httpx.TransportError:  # it does not listen yet
        return False


def _processor_s(processes: Iterable[subprocess.Popen[bytes]]) -> float:
    """The processor time that processes have had, in seconds."""
    ticks = 0
    for process in processes:
        # Behind the name, which may have spaces: the 14th and 15th field of the whole.
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def _move_on(stage: Stage, vm_ids: Sequence[str]) -> None:
    """Move VM after VM, until cancelled: what was due meanwhile is told together, so many times a second."""
    settings = stage.settings
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap, acks="all", linger_ms=0)
    await producer.start()
    try:
        began = time.monotonic()
        moved = 0
        while True:
            for number in range(moved, int((time.monotonic() - began) * _MOVES_PER_SECOND)):
                move = _move(vm_ids[number % len(vm_ids)], 1 + number // len(vm_ids))
                await producer.send(settings.names.of("vm-moved"), stage.codec.encode(move), move.vm_id.encode())
                moved += 1
            await asyncio.sleep(1 / _TOLD_PER_SECOND)
    finally:
        await producer.stop()


def _move(vm_id: str, turn: int) -> VmMoved:
    kind = MoveKind.LIVE if turn else MoveKind.PLACED
    return VmMoved(vm_id, "dr", f"d{turn % 3 + 1}", kind, 1_700_000_000_000 + turn)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]
