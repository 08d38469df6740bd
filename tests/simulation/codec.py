"""A codec that carries values through the log as they are: Avro, which the contract's own tests cover, takes time."""

from __future__ import annotations

from typing import Any

from failover_orch.contract import Codec

__all__ = ["PlainCodec", "value_of"]


class Carried(bytes):
    """An empty record with its value at hand."""

    fact: Any


class PlainCodec(Codec):
    """Encodes nothing."""

    def __init__(self) -> None:
        """Needs no schemas."""

    def encode(self, value: object) -> bytes:
        carried = Carried()
        carried.fact = value
        return carried

    def decode(self, data: bytes | None) -> object:
        assert isinstance(data, Carried)
        return data.fact

    def decode_from(self, topic: str, data: bytes | None) -> object:
        return self.decode(data)


def value_of(codec: Codec, data: bytes | None) -> Any:
    """The value that a record carries, however it was encoded."""
    return data.fact if isinstance(data, Carried) else codec.decode(data)
