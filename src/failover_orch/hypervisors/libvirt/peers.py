"""The way to the other sites: a client of their receivers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from failover_orch.domain.replication import ReplicationState
from failover_orch.errors import ConfigError, StepFailed
from failover_orch.hypervisors.libvirt.compression import COMPRESSED, deflated
from failover_orch.hypervisors.libvirt.messages import (
    CALLER,
    Accepted,
    Answer,
    Cycle,
    Delivered,
    LinkDown,
    NewReplica,
    TurnedRound,
)
from failover_orch.hypervisors.libvirt.record import Record
from failover_orch.hypervisors.libvirt.settings import LibvirtSite
from failover_orch.hypervisors.libvirt.site import Site
from failover_orch.hypervisors.rules import End

__all__ = ["LinkDown", "Peers"]

_Told = TypeVar("_Told")
_CONNECT_S = 3.0
_ASK_S = 10.0
_SEND_S = 10.0
"""How long the link may take nothing while a disk is sent."""
_LARGEST = 4 * 1024 * 1024
"""Bytes of an answer."""
_STORE_S = 120.0
"""How long the other end may take to have safe, or to take in, what was sent."""


class Peers:
    """The other sites' receivers, as one site asks them. An async context manager.

    Besides the errors that the other end answers with, all raise LinkDown where nobody answers.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        settings = self._site.settings
        self._client = httpx.AsyncClient(
            headers=_identity(settings),
            verify=_verification(settings.tls_ca),
            timeout=httpx.Timeout(_ASK_S, connect=_CONNECT_S, write=_SEND_S),
            # The link between the sites is no business of the proxy that the environment may name.
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def end(self, site: str, vm_id: str) -> Record | None:
        """The record of the VM's other end, its node and power as they are now; None where that site has no such VM.

        Raises:
            StepFailed: the site cannot say, as a node of it does not answer.

        """

        async def ask(url: str) -> Answer:
            return await self._ask("GET", f"{url}/ends/{quote(vm_id, safe='')}")

        return (await self._anywhere(site, ask)).record

    async def create(self, site: str, node: str, vm_id: str, replica: NewReplica) -> Record:
        """Have the VM's replica on the node, waiting for its initial replication. One that is there stays."""
        return _record(await self._ask("POST", self._at(site, node, vm_id), replica))

    async def deliver(
        self,
        site: str,
        node: str,
        vm_id: str,
        delivery: str,
        index: int,
        chunks: AsyncIterator[bytes],
        *,
        compressed: bool = False,
    ) -> Delivered:
        """Send one disk of a delivery."""
        url = f"{self._at(site, node, vm_id)}/deliveries/{delivery}/{index}"
        headers = {"Content-Encoding": COMPRESSED} if compressed else {}
        content = deflated(chunks) if compressed else chunks
        response = await self._request("PUT", url, content=content, headers=headers, wait_s=_STORE_S)
        return _understood(response, Delivered, url)

    async def withdraw(self, site: str, node: str, vm_id: str) -> Record:
        """Have the other end forget what was delivered and not committed: from then on it cannot be any more."""
        return _record(await self._ask("DELETE", f"{self._at(site, node, vm_id)}/deliveries"))

    async def commit(self, site: str, node: str, vm_id: str, cycle: Cycle) -> Record:
        """Have the replica stand at the cycle. Asked for again it answers as before.

        Raises:
            Conflict: it stands at another cycle than the base, is on another node, or receives nothing.

        """
        return _record(await self._ask("POST", f"{self._at(site, node, vm_id)}/cycles", cycle, wait_s=_STORE_S))

    async def become_replica(self, site: str, vm_id: str, epoch: int, end: End) -> Record:
        """Turn the prepared primary at the site into the replica of the VM here, which has just taken its place.

        `end` is what becomes of it. Asked for again it answers as before.

        Raises:
            StaleEpoch: it has accepted a higher epoch.
            StepRefused: it is no prepared primary.

        """
        placed = await self._site.nodes.find(vm_id)
        turned = TurnedRound(epoch, end, placed.node.name if placed else "")

        async def ask(url: str) -> Answer:
            return await self._ask("POST", f"{url}/ends/{quote(vm_id, safe='')}/become-replica", turned, _STORE_S)

        return _record(await self._anywhere(site, ask))

    async def accept(self, site: str, vm_id: str, epoch: int, state: ReplicationState) -> Record:
        """Have the VM's other end accept the epoch, and be in this state.

        Raises:
            StaleEpoch: it has accepted a higher epoch.

        """

        async def ask(url: str) -> Answer:
            return await self._ask("POST", f"{url}/ends/{quote(vm_id, safe='')}/accept", Accepted(epoch, state))

        return _record(await self._anywhere(site, ask))

    async def _anywhere(self, site: str, ask: Callable[[str], Awaitable[Answer]]) -> Answer:
        """What the first of the site's receivers says that has the VM, or else what they say together."""
        urls = dict.fromkeys(self._urls(site).values())
        asked = [asyncio.ensure_future(ask(url)) for url in urls]
        empty: Answer | None = None
        failure: StepFailed | None = None
        try:
            for answered in asyncio.as_completed(asked):
                try:
                    answer = await answered
                except StepFailed as error:
                    # One that answers, and cannot say, knows more than one that is out of reach.
                    failure = error if failure is None or isinstance(failure, LinkDown) else failure
                else:
                    if answer.record is not None:
                        return answer
                    empty = answer
        finally:
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        if failure is not None and (empty is None or not isinstance(failure, LinkDown)):
            raise failure
        return empty or Answer()

    async def _ask(self, method: str, url: str, told: object = None, wait_s: float = _ASK_S) -> Answer:
        content = None if told is None else msgspec.json.encode(told)
        response = await self._request(method, url, content=content, wait_s=wait_s)
        return _understood(response, Answer, url)

    async def _request(
        self, method: str, url: str, *, content: Any, wait_s: float, headers: Mapping[str, str] | None = None
    ) -> bytes:
        if self._client is None:
            raise StepFailed("the way to the other sites is not open")
        try:
            async with self._client.stream(
                method,
                url,
                content=content,
                headers={"Accept-Encoding": "identity", **(headers or {})},
                timeout=httpx.Timeout(wait_s, connect=_CONNECT_S, write=_SEND_S, pool=_ASK_S),
            ) as response:
                body = await _body(response, wait_s)
        except TimeoutError as error:
            raise LinkDown(
                f"the replication link from {self._site.name} is slow: {url} does not end its answer"
            ) from error
        except httpx.TransportError as error:
            raise LinkDown(
                f"the replication link from {self._site.name} is down: no answer from {url} ({_said(error)})"
            ) from error
        if response.is_success:
            return body
        try:
            answer = _understood(body, Answer, url)
        except StepFailed:
            answer = Answer()
        answer.raise_error()
        raise StepFailed(
            f"{url} answered {response.status_code} {response.reason_phrase}: is that the receiver of a site agent, "
            "and has it the same key?"
        )

    def _at(self, site: str, node: str, vm_id: str) -> str:
        urls = self._urls(site)
        if node not in urls:
            raise StepFailed(
                f"there is no way to node {node or '(none)'} of {site}: the peers of {self._site.name} name "
                f"{', '.join(urls)} there"
            )
        return f"{urls[node]}/nodes/{quote(node, safe='')}/ends/{quote(vm_id, safe='')}"

    def _urls(self, site: str) -> dict[str, str]:
        for peer in self._site.settings.peers:
            if peer.site == site and peer.nodes:
                return {node: url.rstrip("/") for node, url in peer.nodes.items()}
        raise StepFailed(f"{site or 'the other end'} is not among the peers of {self._site.name}: name it there")


def _identity(settings: LibvirtSite) -> Mapping[str, str]:
    """Who asks, and the key that shows that it may."""
    identity = {CALLER: settings.broker or settings.cluster}
    return {**identity, "Authorization": f"Bearer {settings.key}"} if settings.key else identity


def _understood(body: bytes, told: type[_Told], url: str) -> _Told:
    try:
        return msgspec.json.decode(body, type=told)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise StepFailed(f"{url} gives an answer that cannot be understood: {error}") from None


async def _body(response: httpx.Response, within_s: float) -> bytes:
    """An answer's body as it came: the other site may have been taken over, and answer without end."""
    body = b""
    async with asyncio.timeout(within_s):
        async for part in response.aiter_raw():
            body += part
            if len(body) > _LARGEST:
                raise StepFailed(f"{response.url} gives a longer answer than there is any: more than {_LARGEST} bytes")
    return body


def _record(answer: Answer) -> Record:
    if answer.record is None:
        raise StepFailed("the other end knows nothing of that VM")
    return answer.record


def _verification(authority: Any) -> ssl.SSLContext | bool:
    if authority is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(authority))
    except OSError as error:
        raise ConfigError(f"{authority}: cannot be read as certificates: {error.strerror or error}") from error


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
