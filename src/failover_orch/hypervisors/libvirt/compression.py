"""What is sent between sites, made smaller: zlib, as HTTP's `Content-Encoding: deflate`."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator

from failover_orch.errors import StepFailed

__all__ = ["COMPRESSED", "deflated", "inflated"]

COMPRESSED = "deflate"
_FASTEST = 1
_AT_ONCE = 256 * 1024
"""Bytes that come out of what was compressed at a time: a few may stand for very many."""


async def deflated(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same, compressed."""
    compressor = zlib.compressobj(_FASTEST)
    async for chunk in chunks:
        if smaller := compressor.compress(chunk):
            yield smaller
    yield compressor.flush()


async def inflated(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What was compressed.

    Raises:
        StepFailed: it was not, or not to its end.

    """
    decompressor = zlib.decompressobj()
    async for chunk in chunks:
        rest = chunk
        while rest:
            try:
                larger = decompressor.decompress(rest, _AT_ONCE)
            except zlib.error as error:
                raise StepFailed(f"what was sent cannot be decompressed: {error}") from None
            rest = decompressor.unconsumed_tail
            if larger:
                yield larger
    if not decompressor.eof:
        raise StepFailed("what was sent ended before its end")
