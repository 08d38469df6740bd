"""Traces, metrics and logs: in memory, over a real OTLP/HTTP receiver on loopback, and when they are off."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from failover_orch import telemetry
from failover_orch.config import Settings
from failover_orch.errors import StaleEpoch

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    telemetry.stop()
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture
def spans() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    telemetry.start("worker", Settings(), span_exporter=exporter)
    return exporter


def test_without_an_endpoint_nothing_runs_and_a_parent_is_passed_on() -> None:
    threads = threading.active_count()
    telemetry.start("worker", Settings())
    telemetry.record_batch({"vm-moved": 500}, 0.01)
    assert threading.active_count() == threads
    with telemetry.span("alone", attributes={"vm_id": "v1"}) as alone:
        assert alone.traceparent == ""
        alone.record(ValueError("no harm"))
    with telemetry.span("child", traceparent=PARENT) as child:
        assert child.traceparent == PARENT
        with telemetry.span("grandchild") as grandchild:
            assert grandchild.traceparent == PARENT


def test_without_an_endpoint_the_sdk_is_not_even_imported() -> None:
    program = (
        "import sys\nfrom failover_orch import telemetry\nfrom failover_orch.config import Settings\n"
        "telemetry.start('x', Settings())\nwith telemetry.span('y'): pass\n"
        "sys.exit('opentelemetry.sdk.trace' in sys.modules or 'requests' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("traceparent", ["", "rubbish", "00-0-0-01", f"00-{'0' * 32}-{'0' * 16}-01"])
@pytest.mark.parametrize("on", [False, True])
def test_an_ill_formed_parent_is_none(on: bool, traceparent: str) -> None:
    exporter = InMemorySpanExporter()
    telemetry.start("worker", Settings(), span_exporter=exporter if on else None)
    with telemetry.span("work", traceparent=traceparent) as span:
        assert (span.traceparent != "") is on
    telemetry.stop()
    assert [finished.parent for finished in exporter.get_finished_spans()] == ([None] if on else [])


def test_spans_form_one_trace_across_processes(spans: InMemorySpanExporter) -> None:
    with telemetry.span("request", traceparent=PARENT) as request, telemetry.span("decide") as decide:
        decide.set(rule="P3")
    with telemetry.span("step", traceparent=decide.traceparent, attributes={"vm_id": "v1"}) as step:
        pass
    assert request.traceparent.split("-")[1] == step.traceparent.split("-")[1] == PARENT.split("-")[1]
    telemetry.stop()
    by_name = {finished.name: finished for finished in spans.get_finished_spans()}
    parents = {name: finished.parent.span_id if finished.parent else 0 for name, finished in by_name.items()}
    ids = {name: finished.context.span_id for name, finished in by_name.items() if finished.context}
    assert parents == {"request": int(PARENT.split("-")[2], 16), "decide": ids["request"], "step": ids["decide"]}
    assert dict(by_name["step"].attributes or {}) == {"vm_id": "v1"}
    assert dict(by_name["decide"].attributes or {}) == {"rule": "P3"}
    assert by_name["step"].resource.attributes["service.name"] == "worker"


def test_an_error_marks_its_span_handled_or_not(spans: InMemorySpanExporter) -> None:
    with telemetry.span("handled") as span:
        span.record(StaleEpoch("epoch 3 is over"))
    with pytest.raises(StaleEpoch), telemetry.span("unhandled"):
        raise StaleEpoch("epoch 4 is over")
    telemetry.stop()
    handled, unhandled = spans.get_finished_spans()
    assert not handled.status.is_ok
    assert not unhandled.status.is_ok
    for finished in (handled, unhandled):
        (event,) = finished.events
        assert dict(event.attributes or {})["exception.type"] == "failover_orch.errors.StaleEpoch"


def test_metrics_count_by_their_attributes() -> None:
    reader = InMemoryMetricReader()
    telemetry.start("worker", Settings(), metric_reader=reader)
    telemetry.record_batch({"vm-moved": 300, "step-results": 2}, 0.004)
    telemetry.record_batch({"vm-moved": 5}, 0.006)
    telemetry.record_lag("vm-moved", 3, 17)
    telemetry.count_runs("PLANNED", "SUCCEEDED")
    telemetry.count_runs("PLANNED", "SUCCEEDED", 2)
    telemetry.count_refusals("N4")
    telemetry.count_dead_letters("vm-moved", 7)
    telemetry.record_unread_sites(1)
    data = reader.get_metrics_data()
    assert data is not None
    (scope,) = data.resource_metrics[0].scope_metrics
    found: dict[tuple[object, ...], float] = {}
    for metric in scope.metrics:
        for point in metric.data.data_points:
            assert isinstance(point, NumberDataPoint | HistogramDataPoint)
            value = point.value if isinstance(point, NumberDataPoint) else point.sum
            found[metric.name, *dict(point.attributes or {}).values()] = value
    assert found == {
        ("failover_orch.intake", "vm-moved"): 305,
        ("failover_orch.intake", "step-results"): 2,
        ("failover_orch.batch.size",): 307,
        ("failover_orch.transaction.duration",): pytest.approx(0.01),
        ("failover_orch.lag", "vm-moved", 3): 17,
        ("failover_orch.runs", "PLANNED", "SUCCEEDED"): 3,
        ("failover_orch.refusals", "N4"): 1,
        ("failover_orch.dead_letters", "vm-moved"): 7,
        ("failover_orch.unread_sites",): 1,
    }


@dataclass
class Receiver:
    """A tiny OTLP/HTTP collector: keeps what it is sent."""

    endpoint: str
    spans: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces":
                for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
                    received.spans.extend(span.name for scope in sent.scope_spans for span in scope.spans)
            elif self.path == "/v1/metrics":
                for measured in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    received.metrics.extend(one.name for scope in measured.scope_metrics for one in scope.metrics)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received = Receiver(f"http://127.0.0.1:{server.server_port}/")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield received
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_collector_receives_spans_and_metrics(receiver: Receiver) -> None:
    threads = threading.active_count()
    telemetry.start("site-agent", Settings(otlp_endpoint=receiver.endpoint))
    with telemetry.span("outer"), telemetry.span("inner"):
        telemetry.record_batch({"step-results": 1}, 0.001)
    telemetry.stop()
    assert sorted(receiver.spans) == ["inner", "outer"]
    assert "failover_orch.intake" in receiver.metrics
    assert threading.active_count() <= threads + 1  # the receiver's own may still be at its last answer


def test_a_collector_that_is_away_does_not_hold_up_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    telemetry.start("worker", Settings(otlp_endpoint=f"http://127.0.0.1:{port}"))
    with telemetry.span("lost"):
        pass
    began = time.monotonic()
    telemetry.stop()
    assert time.monotonic() - began < 15


def json_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_log_lines_are_json_with_fields_and_trace_ids(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.start("worker", Settings())
    log = telemetry.logger("streams")
    with telemetry.span("work", traceparent=PARENT):
        log.info("batch 100% taken", partition=3, level="mine")
    log.debug("not shown")
    logging.getLogger("aiokafka").warning("lost %s", "broker 1")
    taken, lost = json_lines(capsys)
    assert str(taken.pop("time")).endswith("+00:00")
    assert taken == {
        "level": "INFO",
        "logger": "streams",
        "event": "batch 100% taken",
        "fields": {"partition": 3, "level": "mine"},
        "trace_id": PARENT.split("-")[1],
        "span_id": PARENT.split("-")[2],
    }
    assert (lost["logger"], lost["level"], lost["event"]) == ("aiokafka", "WARNING", "lost broker 1")
    assert "fields" not in lost
    assert "trace_id" not in lost


def test_our_errors_are_a_sentence_and_bugs_bring_their_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.start("worker", Settings())
    log = telemetry.logger("x")
    log.error("refused", error=StaleEpoch("epoch 3 is over"))
    try:
        {}["nothing"]  # type: ignore[index, unused-ignore]
    except KeyError as error:
        log.error("failed", error=error)
    refused, failed = json_lines(capsys)
    assert refused["fields"] == {"error": "epoch 3 is over"}
    assert "exception" not in refused
    assert "KeyError: 'nothing'" in str(failed["exception"])


def test_no_library_writes_whole_messages_down(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        logging.config.dictConfig(telemetry.logging_config("DEBUG"))
        for name in ("aiokafka.conn", "httpcore.http11", "pypsrp.wsman", "spnego._ntlm"):
            logging.getLogger(name).debug("a password")
            logging.getLogger(name).info("%s says", name)
        logging.getLogger("aiokafka").debug("a rebalance")
    finally:
        root.handlers[:], level = before
        root.setLevel(level)
        for name in ("aiokafka", "faust", "mode", "aiokafka.conn", "httpcore", "pypsrp", "spnego"):
            logging.getLogger(name).setLevel(logging.NOTSET)
    said = capsys.readouterr().err
    assert "a password" not in said
    assert said.count(" says") == 4
    assert "a rebalance" in said


def test_no_field_can_cost_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.start("worker", Settings())
    telemetry.logger("x").info("odd", blob=b"\xff", text="\ud800", number=2**80, kinds={1: {2}})
    (line,) = json_lines(capsys)
    assert "odd" in str(line["event"])


def test_an_error_that_brings_no_exception_is_a_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    """What the event loop says of a task that was left: a record whose `exc_info` is False, and not None."""
    telemetry.start("worker", Settings())
    logging.getLogger("asyncio").error("Task was destroyed but it is pending!", exc_info=False)
    (line,) = json_lines(capsys)
    assert line["event"] == "Task was destroyed but it is pending!"
    assert "exception" not in line


def test_a_terminal_gets_plain_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    telemetry.start("worker", Settings(log_level="DEBUG"))
    telemetry.logger("x").debug("run ended", run_id="run-1", state="SUCCEEDED")
    assert capsys.readouterr().err.split(" ", 1)[1] == "DEBUG   run ended  run_id=run-1  state=SUCCEEDED\n"
