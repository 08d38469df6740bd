"""Traces, metrics and logs of every process.

Traces and metrics leave by OTLP/HTTP where an endpoint is configured; without one no exporter, thread or provider is
made, and a span does no more than hand its parent's `traceparent` on. Logs are JSON lines on standard error, or plain
lines where that is a terminal. Counters are added once a batch: nothing here is meant to be called for every event.

    telemetry.start("worker", settings)
    log = telemetry.logger(__name__)
    with telemetry.span("batch", traceparent=headers["traceparent"]) as span:
        log.info("batch taken", partition=3, records=500)
        publish(..., traceparent=span.traceparent)
    telemetry.stop()
"""

from __future__ import annotations

import logging
import logging.config
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import orjson
from opentelemetry import trace
from opentelemetry.context import get_current
from opentelemetry.metrics import Meter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from failover_orch.config import Settings
from failover_orch.errors import FailoverOrchError

if TYPE_CHECKING:  # the SDK takes 0.2 s to import, and most commands never need it
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

__all__ = [
    "Logger",
    "Span",
    "count_dead_letters",
    "count_refusals",
    "count_runs",
    "logger",
    "logging_config",
    "record_batch",
    "record_lag",
    "record_unread_sites",
    "span",
    "start",
    "stop",
]

_SCOPE = "failover_orch"
_PROPAGATOR = TraceContextTextMapPropagator()
_BATCH_SIZE_BOUNDS = (1, 5, 10, 50, 100, 500, 1000, 2000, 5000, 10_000)
_TRANSACTION_BOUNDS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_LIBRARIES = ("aiokafka", "faust", "mode")
"""They tell of their daily rounds at INFO; our own lines say what matters of it."""
_WHOLE_MESSAGES = ("aiokafka.conn", "httpcore", "pypsrp", "spnego")
"""At DEBUG they write down what is sent and received, with what proves who one is: SASL and NTLM exchanges, from which
passwords can be guessed at leisure, PLAIN's password itself, a management controller's session token."""
_EXPORT_TIMEOUT_S = 5.0
"""A collector that is away must not hold up a worker that is asked to end."""


class _Instruments:
    """The metrics. Their names, units and attributes are listed in `docs/operations.md`."""

    def __init__(self, meter: Meter) -> None:
        self.intake = meter.create_counter("failover_orch.intake", "{record}", "Source records taken, by topic")
        self.batch = meter.create_histogram(
            "failover_orch.batch.size",
            "{record}",
            "Source records in one batch",
            explicit_bucket_boundaries_advisory=_BATCH_SIZE_BOUNDS,
        )
        self.transaction = meter.create_histogram(
            "failover_orch.transaction.duration",
            "s",
            "From the start of a batch's transaction to its commit",
            explicit_bucket_boundaries_advisory=_TRANSACTION_BOUNDS_S,
        )
        self.lag = meter.create_gauge(
            "failover_orch.lag", "{record}", "Records written but not yet taken, by topic and partition"
        )
        self.runs = meter.create_counter("failover_orch.runs", "{run}", "Runs that reached a state, by kind and state")
        self.refusals = meter.create_counter("failover_orch.refusals", "{refusal}", "Refusals, by rule")
        self.dead_letters = meter.create_counter("failover_orch.dead_letters", "{record}", "Bad records, by topic")
        self.unread_sites = meter.create_gauge(
            "failover_orch.unread_sites", "{site}", "Sites added since this worker was started, which it does not read"
        )


@dataclass(slots=True)
class _Running:
    """What `start` made and `stop` ends."""

    traces: TracerProvider
    metrics: MeterProvider
    tracer: trace.Tracer
    instruments: _Instruments


_running: _Running | None = None


def start(
    service: str,
    settings: Settings,
    *,
    libraries: str = "WARNING",
    span_exporter: SpanExporter | None = None,
    metric_reader: MetricReader | None = None,
) -> None:
    """Set up logging, and tracing and metrics where `settings.otlp_endpoint` names a collector. May be called again.

    `service` is the OpenTelemetry `service.name`: `worker`, `site-agent`, `service`. `span_exporter` and
    `metric_reader` take the place of OTLP for those who embed this, and for tests.
    """
    global _running  # noqa: PLW0603 - telemetry is one per process, as logging is
    stop()
    logging.config.dictConfig(logging_config(settings.log_level, libraries=libraries))
    if not settings.otlp_endpoint and span_exporter is None and metric_reader is None:
        return
    # Imported here: without a collector a process pays neither the time nor the memory of the SDK and of requests.
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415 - see above
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - see above
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - see above
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - see above

    if settings.otlp_endpoint:
        span_exporter = span_exporter or _otlp_spans(settings.otlp_endpoint)
        metric_reader = metric_reader or _otlp_metrics(settings.otlp_endpoint)
    resource = Resource.create({"service.name": service, "service.namespace": _SCOPE, "service.version": _version()})
    traces = TracerProvider(resource=resource)
    if span_exporter is not None:
        traces.add_span_processor(BatchSpanProcessor(span_exporter))
    metrics = MeterProvider(resource=resource, metric_readers=[] if metric_reader is None else [metric_reader])
    _running = _Running(traces, metrics, traces.get_tracer(_SCOPE), _Instruments(metrics.get_meter(_SCOPE)))


def stop() -> None:
    """Send what has not been sent, within a few seconds, and end tracing and metrics. Logging goes on."""
    global _running
    if _running is None:
        return
    ending, _running = _running, None
    ending.traces.shutdown()
    ending.metrics.shutdown(timeout_millis=_EXPORT_TIMEOUT_S * 1000)


def _version() -> str:
    try:
        return version("failover-orch")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0"


def _otlp_spans(endpoint: str) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - see start

    return OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_TIMEOUT_S)


def _otlp_metrics(endpoint: str) -> MetricReader:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415 - see start
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415 - see start

    exporter = OTLPMetricExporter(endpoint=f"{endpoint.rstrip('/')}/v1/metrics", timeout=_EXPORT_TIMEOUT_S)
    return PeriodicExportingMetricReader(exporter)


class Span:
    """One piece of work within a trace."""

    __slots__ = ("_span",)

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        """W3C trace context to send along; empty where there is no trace to be part of."""
        context = self._span.get_span_context()
        if not context.is_valid:
            return ""
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def set(self, **attributes: str | float | bool) -> None:
        """Add attributes that are only known now."""
        self._span.set_attributes(attributes)

    def record(self, error: BaseException) -> None:
        """Mark the work as failed by an error that is handled here; one that leaves the `with` block does so itself."""
        self._span.record_exception(error)
        self._span.set_status(trace.StatusCode.ERROR, str(error))


@contextmanager
def span(name: str, *, traceparent: str = "", attributes: Mapping[str, str] | None = None) -> Iterator[Span]:
    """Open a span, the child of `traceparent` or else of the current one; log lines within carry its ids.

    An ill-formed `traceparent` counts as none: whoever sent it must not stop our work. With tracing off the span is the
    parent itself, so that a trace begun elsewhere goes through us unbroken.
    """
    parent = _PROPAGATOR.extract({"traceparent": traceparent}, get_current()) if traceparent else get_current()
    if _running is None:
        with trace.use_span(
            trace.get_current_span(parent), record_exception=False, set_status_on_exception=False
        ) as own:
            yield Span(own)
        return
    with _running.tracer.start_as_current_span(name, parent, attributes=attributes) as own:
        yield Span(own)


def record_batch(records: Mapping[str, int], transaction_s: float) -> None:
    """A batch is committed: how many records it took from each topic, and how long its transaction lasted."""
    if _running is None:
        return
    for topic, count in records.items():
        _running.instruments.intake.add(count, {"topic": topic})
    _running.instruments.batch.record(sum(records.values()))
    _running.instruments.transaction.record(transaction_s)


def record_lag(topic: str, partition: int, records: int) -> None:
    """How many records of a partition are written but not yet taken."""
    if _running is not None:
        _running.instruments.lag.set(records, {"topic": topic, "partition": partition})


def count_runs(kind: str, state: str, runs: int = 1) -> None:
    """So many runs of a kind have reached a state (`RUNNING` at their start)."""
    if _running is not None:
        _running.instruments.runs.add(runs, {"kind": kind, "state": state})


def count_refusals(rule: str, refusals: int = 1) -> None:
    """So many requests were refused by the rule of this number."""
    if _running is not None:
        _running.instruments.refusals.add(refusals, {"rule": rule})


def count_dead_letters(topic: str, records: int = 1) -> None:
    """So many records of a topic went to `dead-letters`."""
    if _running is not None:
        _running.instruments.dead_letters.add(records, {"topic": topic})


def record_unread_sites(sites: int) -> None:
    """So many sites have topics of their own that this worker does not read."""
    if _running is not None:
        _running.instruments.unread_sites.set(sites)


class Logger:
    """A structured logger: an event in a few fixed words, and fields that tell this one from others like it.

    A field that is one of our errors becomes its sentence. Any other exception is a bug, so its traceback comes along.
    """

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: object) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._log(logging.ERROR, event, fields)

    def _log(self, level: int, event: str, fields: dict[str, object]) -> None:
        if not self._logger.isEnabledFor(level):
            return
        errors = [value for value in fields.values() if isinstance(value, BaseException)]
        bug = next((error for error in errors if not isinstance(error, FailoverOrchError)), None)
        self._logger.log(level, event, exc_info=bug, extra={"fields": fields})


def logger(name: str) -> Logger:
    """The logger of a module: `log = telemetry.logger(__name__)`."""
    return Logger(name)


def logging_config(level: str, *, libraries: str = "WARNING") -> dict[str, Any]:
    """An argument for `logging.config.dictConfig` that gives every library's logs our form.

    For those who set up logging themselves, as Faust does: give its worker this as `logging_config`.
    """
    formatter = _Plain if sys.stderr.isatty() else _JsonLines
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr", "formatter": "line"}},
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {name: {"level": level if level == "DEBUG" else libraries} for name in _LIBRARIES}
        | {name: {"level": "INFO"} for name in _WHOLE_MESSAGES if level == "DEBUG"},
    }


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = getattr(record, "fields", {})
    return {name: str(value) if isinstance(value, BaseException) else value for name, value in fields.items()}


def _trace_ids() -> dict[str, str]:
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def _traceback(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    return "".join(traceback.format_exception(record.exc_info[1]))


class _JsonLines(logging.Formatter):
    """A JSON object a line: time, level, logger, event; fields, trace_id and span_id, exception where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
        }
        fields = _fields(record)
        if fields:
            line["fields"] = fields
        line |= _trace_ids()
        exception = _traceback(record)
        if exception:
            line["exception"] = exception
        # A field that JSON has no form for (or a lone surrogate in foreign text) must never cost the line.
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except orjson.JSONEncodeError:
            return orjson.dumps({name: ascii(value) for name, value in line.items()}).decode()


class _Plain(logging.Formatter):
    """For a person at a terminal: time of day, level, event, fields; then the traceback of a bug."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = "".join(f"  {name}={value}" for name, value in _fields(record).items())
        return f"{time} {record.levelname:<7} {record.getMessage()}{fields}\n{_traceback(record)}".rstrip("\n")
