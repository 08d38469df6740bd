"""Another site that was taken over, and answers without end, packed, or elsewhere: it is a link that is down."""

from __future__ import annotations

import asyncio
import gzip
import resource
from contextlib import suppress
from types import SimpleNamespace
from typing import cast

import pytest

from failover_orch.errors import StepFailed
from failover_orch.hypervisors.libvirt import LibvirtSite, PeerSite
from failover_orch.hypervisors.libvirt.peers import Peers
from failover_orch.hypervisors.libvirt.site import Site

KEY = "a key that nobody would guess"


@pytest.mark.parametrize(
    ("head", "body", "sentence"),
    [
        ("200 OK", b"x" * 6_000_000, r"gives a longer answer than there is any: more than 4194304 bytes"),
        ("200 OK", None, r"is slow: http://.* does not end its answer"),
        (
            "200 OK\r\ncontent-encoding: gzip",
            gzip.compress(bytes(500_000_000), 1),
            r"gives a longer answer|cannot be understood",
        ),
        ("302 Found\r\nlocation: http://127.0.0.1:1/elsewhere", b"", r"answered 302 Found: is that the receiver"),
        ("200 OK", b'{"record":' * 100_000, r"cannot be understood: .*recursion"),
    ],
)
async def test_an_answer_that_means_harm(head: str, body: bytes | None, sentence: str) -> None:
    asked: list[bytes] = []
    serving: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(f"HTTP/1.1 {head}\r\nconnection: close\r\n\r\n".encode())
            for part in [b" "] * 40 if body is None else [body]:
                writer.write(part)
                await writer.drain()
                if body is None:
                    with suppress(TimeoutError):
                        # Whoever asked has left: nothing comes any more.
                        await asyncio.wait_for(reader.read(1), 0.1)
                        break
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        settings = LibvirtSite("primary", "p-cluster", (), key=KEY, peers=(PeerSite("dr", {"d1": url}),))
        site = cast("Site", SimpleNamespace(name="primary", settings=settings))
        async with Peers(site) as peers:
            slow = peers._request("GET", f"{url}/ends/vm-1", content=None, wait_s=0.5) if body is None else None
            with pytest.raises(StepFailed, match=sentence):
                await (slow or peers.end("dr", "vm-1"))
    await asyncio.gather(*(task for task in serving if task is not None))
    assert len(asked) == 1, "nothing is followed, and the key goes nowhere else"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
