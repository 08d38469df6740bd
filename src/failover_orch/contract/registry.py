"""A schema registry: ids for schemas and schemas for ids, over HTTP as Confluent's registry speaks it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Protocol

import httpx

from failover_orch.errors import ConfigError, IncompatibleSchema, UndecodableRecord

__all__ = ["HttpRegistry", "Registry"]

_MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
_MISSES_KEPT = 1000


class Registry(Protocol):
    """What the codec asks of a schema registry. Schemas are JSON values."""

    def id_of(self, subject: str, schema: Any) -> int:
        """The id of a schema under a subject, which is registered where it is not yet."""

    def schema_of(self, schema_id: int) -> Any:
        """The schema with an id.

        Raises:
            UndecodableRecord: there is none, or the registry does not answer.

        """


class HttpRegistry:
    """A registry at a URL. What it has answered is kept, so that only an id never seen before costs a request.

    An id that it does not know, and a registry that does not answer, are not asked again for `retry_after` seconds:
    otherwise each bad record would hold its partition up for `timeout` seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 2.0,
        retry_after: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the registry's base URL; times in seconds.

        Raises:
            ConfigError: the URL is not one.

        """
        self._url = url.rstrip("/")
        self._retry_after = retry_after
        self._clock = clock
        self._schemas: dict[int, Any] = {}
        self._misses: dict[int, float] = {}
        self._silent_until = float("-inf")
        try:
            address = httpx.URL(self._url)
        except httpx.InvalidURL:
            address = httpx.URL("")
        if address.scheme not in ("http", "https") or not address.host:
            raise ConfigError(f"schema registry {url!r}: expected a URL such as http://registry.example:8081")
        # Requests are rare, so no connection is kept open between them and there is nothing to close.
        self._client = httpx.Client(timeout=timeout, limits=httpx.Limits(max_keepalive_connections=0))

    def id_of(self, subject: str, schema: Any) -> int:
        """The id of a schema under a subject, registering it. For a process's start, not for the hot path.

        Raises:
            ConfigError: the registry does not answer as one.
            IncompatibleSchema: it refuses the schema beside the versions that it has.

        """
        body = json.dumps({"schema": json.dumps(schema)})
        try:
            answer = self._client.post(
                f"{self._url}/subjects/{subject}/versions", content=body, headers={"content-type": _MEDIA_TYPE}
            )
            if answer.status_code == httpx.codes.CONFLICT:
                raise IncompatibleSchema(f"the schema registry refuses {subject}: {_message(answer)}")
            answer.raise_for_status()
            schema_id = int(answer.json()["id"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"schema registry {self._url} did not register {subject}: {error}; "
                "start it, or unset FAILOVER_ORCH_SCHEMA_REGISTRY_URL to do without"
            ) from None
        self._schemas[schema_id] = schema
        return schema_id

    def schema_of(self, schema_id: int) -> Any:
        """The schema with an id, asked for once.

        Raises:
            UndecodableRecord: the registry does not know the id, does not answer, or holds no Avro schema there.

        """
        if schema_id in self._schemas:
            return self._schemas[schema_id]
        now = self._clock()
        if now < self._silent_until:
            raise UndecodableRecord(f"schema id {schema_id}: the schema registry {self._url} does not answer")
        if now < self._misses.get(schema_id, float("-inf")):
            raise UndecodableRecord(f"schema id {schema_id} is not in the schema registry {self._url}")
        schema = self._ask(schema_id)
        self._schemas[schema_id] = schema
        return schema

    def _ask(self, schema_id: int) -> Any:
        try:
            answer = self._client.get(f"{self._url}/schemas/ids/{schema_id}")
            if answer.status_code == httpx.codes.NOT_FOUND:
                self._miss(schema_id)
                raise UndecodableRecord(f"schema id {schema_id} is not in the schema registry {self._url}")
            answer.raise_for_status()
            found = answer.json()
        except (httpx.HTTPError, ValueError, RecursionError) as error:
            self._silent_until = self._clock() + self._retry_after
            raise UndecodableRecord(
                f"schema id {schema_id}: the schema registry {self._url} does not answer: {error}"
            ) from None
        try:
            if found.get("schemaType", "AVRO") != "AVRO":
                raise ValueError(found["schemaType"])  # noqa: TRY301 - the same refusal as for text that is not JSON
            return json.loads(found["schema"])
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            self._miss(schema_id)
            raise UndecodableRecord(f"schema id {schema_id} is not an Avro schema in {self._url}") from None

    def _miss(self, schema_id: int) -> None:
        # Random bytes make up ids without end; keep the latest.
        if len(self._misses) >= _MISSES_KEPT:
            del self._misses[next(iter(self._misses))]
        self._misses.pop(schema_id, None)
        self._misses[schema_id] = self._clock() + self._retry_after


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text
