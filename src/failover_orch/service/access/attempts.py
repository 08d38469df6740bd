"""How often an address may fail to prove who it is."""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from dataclasses import dataclass

__all__ = ["AttemptLimit", "Attempts"]

_ADDRESSES_AT_MOST = 10_000
_SITE_PREFIX = 64


@dataclass(frozen=True, slots=True)
class AttemptLimit:
    """A bucket of `burst` failures, filled again at one in `every_s` seconds."""

    burst: int = 10
    every_s: float = 6.0


class Attempts:
    """A token bucket for each address; whole /64 networks of IPv6 share one, since a host can have all of theirs.

    Only as many addresses as fit are remembered: the one that failed the longest ago is forgotten first.
    """

    def __init__(self, limit: AttemptLimit) -> None:
        self._limit = limit
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """For each network how many failures are left, and when that was reckoned."""

    def failed(self, address: str, now_s: float) -> int:
        """Count a failure. Returns 0, or in how many seconds the address may fail again where it has used up its own.

        `now_s` is of a clock that never goes back.
        """
        network = _network(address)
        left, since = self._buckets.pop(network, (float(self._limit.burst), now_s))
        left = min(float(self._limit.burst), left + (now_s - since) / self._limit.every_s)
        if left < 1:
            self._keep(network, left, now_s)
            return max(1, math.ceil((1 - left) * self._limit.every_s))
        self._keep(network, left - 1, now_s)
        return 0

    def _keep(self, network: str, left: float, now_s: float) -> None:
        self._buckets[network] = (left, now_s)
        if len(self._buckets) > _ADDRESSES_AT_MOST:
            self._buckets.popitem(last=False)


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, _SITE_PREFIX), strict=False))
    return str(found)
