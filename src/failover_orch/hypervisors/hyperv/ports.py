"""Whether something listens at a TCP port of a guest."""

from __future__ import annotations

import socket

__all__ = ["listens"]

_TIMEOUT_S = 2.0


def listens(address: str, port: int) -> bool:
    """Whether a TCP connection to this address and port is accepted, within two seconds."""
    try:
        with socket.create_connection((address, port), timeout=_TIMEOUT_S):
            return True
    except OSError:
        return False
