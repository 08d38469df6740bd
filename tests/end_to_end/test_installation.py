"""A whole installation as its operators use it: commands, a worker, two site agents, and one trace through all."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from failover_orch.config import Settings
from failover_orch.demo.processes import Processes
from failover_orch.domain import Action
from failover_orch.hypervisors.simulated import SimulatedWorld
from failover_orch.topology import bundled

WITHIN_S = 60.0
SITES = ("primary", "dr")


class Collector:
    """An OTLP/HTTP receiver on loopback that keeps every span."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path == "/v1/traces":
                    request = ExportTraceServiceRequest.FromString(body)
                    for resource in request.resource_spans:
                        for scope in resource.scope_spans:
                            collector.spans += scope.spans
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (the base class's name)
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass(slots=True)
class Installation:
    """Commands against a running installation, and the world behind its agents."""

    environment: dict[str, str]
    world: SimulatedWorld
    processes: Processes

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "failover_orch", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def where(self, vm: str) -> dict[str, str]:
        """Role to node, as `vm where` says it; empty while nothing is known."""
        asked = self.run("vm", "where", vm, "--json")
        return {here["role"]: here["node"] for here in json.loads(asked.stdout)["locations"]} if asked.stdout else {}


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def collector() -> Iterator[Collector]:
    receiving = Collector()
    yield receiving
    receiving.close()


@pytest.fixture
def installation(settings: Settings, collector: Collector, tmp_path: Path) -> Iterator[Installation]:
    environment = {
        "FAILOVER_ORCH_BOOTSTRAP": settings.bootstrap,
        "FAILOVER_ORCH_APP_ID": settings.app_id,
        "FAILOVER_ORCH_TOPIC_PREFIX": settings.topic_prefix,
        "FAILOVER_ORCH_PARTITIONS": str(settings.partitions),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    topology = str(bundled("two-sites"))
    world = tmp_path / "world.db"
    processes = Processes(tmp_path, environment)
    try:
        processes.start("worker", "worker")
        for site in SITES:
            options = ("--site", site, "--world", str(world), "--topology", topology, "--report-every", "1")
            processes.start(f"agent-{site}", "site-agent", *options)
        until(world.exists)
        here = Installation({**processes.environment}, SimulatedWorld(world), processes)
        applied = here.run("topology", "apply", topology)
        assert applied.returncode == 0, applied.stderr
        until(lambda: set(here.where("core-dns")) == {"PRIMARY", "REPLICA"} and _replicates(here, "core-dns"))
        yield here
        processes.require_alive()
    finally:
        processes.stop()
        if "here" in locals():
            here.world.close()


def _replicates(here: Installation, vm: str) -> bool:
    health = json.loads(here.run("vm", "show", vm, "--json").stdout)["health"]
    return health is not None and health["health"] == "Normal"


def test_a_planned_failover_is_one_trace_from_the_command_through_workers_and_agents(
    installation: Installation, collector: Collector
) -> None:
    before = installation.where("core-dns")
    asked = installation.run("failover", "planned", "core-dns", "--reason", "patch day", "--ticket", "CHG-7")
    assert asked.returncode == 0, asked.stdout + asked.stderr
    after = installation.where("core-dns")
    assert (after["PRIMARY"], after["REPLICA"]) == (before["REPLICA"], before["PRIMARY"])

    def traced() -> list[Span]:
        root = next((span for span in collector.spans if span.name == "failover request"), None)
        return [span for span in collector.spans if root is not None and span.trace_id == root.trace_id]

    steps = {f"step {action}" for action in (Action.STAGE_ADDRESSES, Action.SHUT_DOWN, Action.REVERSE, Action.START)}
    until(lambda: steps | {"decide"} <= {span.name for span in traced()})
    known = {span.span_id for span in traced()}
    orphans = [span.name for span in traced() if span.parent_span_id and span.parent_span_id not in known]
    assert orphans == []
    # Every command and every answer is in it: a decision for the request and for each of nine answers.
    until(lambda: sum(span.name == "decide" for span in traced()) == 10)


def test_an_unplanned_failover_of_a_primary_that_runs_is_stopped_before_it_does_anything(
    installation: Installation,
) -> None:
    before = installation.where("core-dns")
    asked = installation.run(
        "failover", "unplanned", "core-dns", "--primary-is-down", "--reason", "believed to be down"
    )
    assert asked.returncode == 3, asked.stdout + asked.stderr
    assert installation.where("core-dns") == before
    vm_id = json.loads(installation.run("vm", "where", "core-dns", "--json").stdout)["vm_id"]
    assert [effect.action for effect in installation.world.effects(vm_id)] == []


def test_what_cannot_be_applied_is_refused_naming_adapter_and_reason(installation: Installation) -> None:
    asked = installation.run("failover", "planned", "core-fax", "--reason", "try")
    assert asked.returncode == 4, asked.stdout + asked.stderr
    shown = installation.run("run", "show", asked.stdout.split()[0])
    assert "A16" in shown.stdout
    assert "legacy" in shown.stdout


def test_the_run_is_in_the_journal_and_the_audit_trail_verifies(installation: Installation, tmp_path: Path) -> None:
    assert installation.run("failover", "planned", "core-dns", "--reason", "patch day").returncode == 0
    assert installation.run("audit", "verify").returncode == 0
    exported = tmp_path / "audit.jsonl"
    assert installation.run("audit", "export", str(exported)).returncode == 0
    text = exported.read_text()
    for step in ("P1", "P5", "P8"):
        assert f"{step} done" in text
    exported.write_text(text.replace("P5 done", "P5 DONE", 1))
    tampered = installation.run("audit", "verify", "--file", str(exported))
    assert tampered.returncode == 1
