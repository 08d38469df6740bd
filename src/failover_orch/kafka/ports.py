"""Ports of this machine that a broker may have."""

from __future__ import annotations

import random
import socket

from failover_orch.errors import LocalKafkaError

__all__ = ["LOOPBACK", "free_ports", "is_free", "listens"]

LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 32_000)
"""Below the ports that systems give to outgoing connections: else one of those can sit on a stopped broker's port, and
a client that knocks there while it is down can even connect to itself."""
_TRIED = 2_000
_KNOCK_S = 1.0


def free_ports(address: str, count: int) -> list[int]:
    """So many ports that are free both on an address and on the loopback address.

    Raises:
        LocalKafkaError: there are not so many, or the address is none of this machine.

    """
    shuffled = random.sample(PORTS, len(PORTS))
    free = [port for port in shuffled[:_TRIED] if is_free(LOOPBACK, port) and is_free(address, port)][:count]
    if len(free) < count:
        raise LocalKafkaError(
            f"fewer than {count} ports from {PORTS.start} to {PORTS.stop} are free on {address}: is that an address of "
            "this machine?"
        )
    return free


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError:
            return False
    return True


def listens(host: str, port: int) -> bool:
    """Whether a server listens there."""
    with socket.socket() as trial:
        trial.settimeout(_KNOCK_S)
        return trial.connect_ex((host, port)) == 0
