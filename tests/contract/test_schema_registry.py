"""The registry client against a small real registry on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from contract_values import MOVED, RECORDS

from failover_orch.contract import Codec, HttpRegistry
from failover_orch.errors import ConfigError, IncompatibleSchema, UndecodableRecord

AVRO = '{"type": "record", "name": "Other", "fields": []}'


class LoopbackRegistry(ThreadingHTTPServer):
    """Speaks the two requests of Confluent's registry that we use, and counts them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.subjects: dict[int, tuple[str, Any]] = {}
        self.requests: list[str] = []
        self.status = 200
        self.answer: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: LoopbackRegistry

    def do_POST(self) -> None:
        self.server.requests.append(self.path)
        assert self.headers["content-type"] == "application/vnd.schemaregistry.v1+json"
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        new = (self.path.split("/")[2], body["schema"])
        known = {schema: schema_id for schema_id, schema in self.server.subjects.items()}
        schema_id = known.get(new, len(known) + 100)
        self.server.subjects[schema_id] = new
        self.reply({"id": schema_id})

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        found = self.server.subjects.get(int(self.path.rpartition("/")[2]))
        if found is None:
            self.reply({"error_code": 40403, "message": "Schema not found"}, 404)
        else:
            self.reply({"schema": found[1]})

    def reply(self, answer: Any, status: int = 200) -> None:
        if self.server.answer is not None:
            answer, status = self.server.answer, self.server.status
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that http.server gives it
        pass


@pytest.fixture
def server() -> Iterator[LoopbackRegistry]:
    with LoopbackRegistry() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_two_processes_meet_over_the_registry(server: LoopbackRegistry) -> None:
    writer, reader = Codec(HttpRegistry(server.url)), Codec(HttpRegistry(server.url + "/"))
    assert {subject for subject, _ in server.subjects.values()} == {f"failover_orch.{r.__name__}" for r in RECORDS}
    assert len(server.requests) == 2 * len(RECORDS)
    for _ in range(3):
        assert reader.decode(writer.encode(MOVED)) == MOVED
    assert len(server.requests) == 2 * len(RECORDS), "the hot path asks nothing"


def test_what_was_registered_is_not_asked_for(server: LoopbackRegistry) -> None:
    registry = HttpRegistry(server.url)
    assert registry.schema_of(registry.id_of("other", json.loads(AVRO))) == json.loads(AVRO)
    assert server.requests == ["/subjects/other/versions"]


def test_an_id_that_is_new_is_asked_for_once(server: LoopbackRegistry) -> None:
    registry = HttpRegistry(server.url)
    server.subjects[7] = ("other", AVRO)
    assert registry.schema_of(7) == registry.schema_of(7) == json.loads(AVRO)
    assert server.requests == ["/schemas/ids/7"]


def test_an_id_that_it_does_not_know_is_not_asked_for_again_for_a_while(server: LoopbackRegistry) -> None:
    clock = Clock()
    registry = HttpRegistry(server.url, retry_after=30, clock=clock)
    for _ in range(3):
        with pytest.raises(UndecodableRecord, match=f"schema id 7 is not in the schema registry {server.url}"):
            registry.schema_of(7)
    assert server.requests == ["/schemas/ids/7"]
    server.subjects[7] = ("other", AVRO)
    clock.now = 30
    assert registry.schema_of(7) == json.loads(AVRO)


def test_ids_made_up_without_end_are_not_kept_without_end(server: LoopbackRegistry) -> None:
    registry = HttpRegistry(server.url)
    registry._misses = dict.fromkeys(range(1000), 0.0)
    with pytest.raises(UndecodableRecord):
        registry.schema_of(5000)
    assert len(registry._misses) == 1000
    assert 5000 in registry._misses


def test_a_registry_that_fails_is_left_alone_for_a_while(server: LoopbackRegistry) -> None:
    clock = Clock()
    registry = HttpRegistry(server.url, retry_after=30, clock=clock)
    server.subjects[7] = ("other", AVRO)
    server.answer, server.status = {"message": "out of order"}, 500
    for schema_id in (7, 8, 9):
        with pytest.raises(UndecodableRecord, match=f"schema id {schema_id}: the schema registry .* does not answer"):
            registry.schema_of(schema_id)
    assert server.requests == ["/schemas/ids/7"]
    server.answer = None
    clock.now = 30
    assert registry.schema_of(7) == json.loads(AVRO)


@pytest.mark.parametrize(
    "answer", [{"schemaType": "PROTOBUF", "schema": "x"}, {"schema": "{"}, {}, [], {"schema": None}]
)
def test_what_is_no_avro_schema_is_refused(server: LoopbackRegistry, answer: Any) -> None:
    server.answer = answer
    with pytest.raises(UndecodableRecord, match="schema id 7 is not an Avro schema"):
        HttpRegistry(server.url).schema_of(7)


def test_a_schema_that_the_registry_refuses_is_named(server: LoopbackRegistry) -> None:
    server.answer, server.status = {"message": "READER_FIELD_MISSING_DEFAULT_VALUE"}, 409
    with pytest.raises(IncompatibleSchema, match=r"refuses failover_orch\.VmMoved: READER_FIELD_MISSING_DEFAULT_VALUE"):
        Codec(HttpRegistry(server.url))


def test_a_registry_that_is_away_at_the_start_is_named_with_what_to_do(server: LoopbackRegistry) -> None:
    url = server.url
    server.server_close()
    with pytest.raises(
        ConfigError, match=f"schema registry {url} did not register .*; start it, or unset FAILOVER_ORCH_"
    ):
        Codec(HttpRegistry(url, timeout=0.2))


@pytest.mark.parametrize("url", ["", "registry:8081", "ftp://registry", "http://", "http://registry:port"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a URL such as http://registry.example:8081"):
        HttpRegistry(url)
