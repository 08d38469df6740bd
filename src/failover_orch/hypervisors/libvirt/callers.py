"""The connections on which a node is called: one call at a time on each.

libvirt's client lets several threads share a connection, and up to libvirt 10.2 that ends the process now and then with
a segmentation fault: the thread that waits for all of them leaves a watch on its own stack behind when another wakes
it. A daemon also takes only five calls at a time from a connection. So each call has a connection to itself, and what
events come in by has none of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import libvirt

from failover_orch.errors import StepFailed
from failover_orch.hypervisors.libvirt.daemon import broken_off, keep_alive, open_connection

__all__ = ["Callers"]

_T = TypeVar("_T")


class Callers:
    """Connections to one daemon that are kept for calls. All methods block, and may be called in any thread."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._lock = threading.Lock()
        self._free: list[libvirt.virConnect] = []
        self._round = 0

    def call(self, what: Callable[[libvirt.virConnect], _T], given_up: threading.Event) -> _T:
        """Call with a connection that nobody else calls on meanwhile, unless `given_up` is set before it is there.

        Raises:
            libvirtError: there was none to be had, it broke, or what libvirt answers is an error.
            StepFailed: it was given up.

        """
        with self._lock:
            connection = self._free.pop() if self._free else None
            begun_in = self._round
        if connection is None:
            connection = open_connection(self._uri)
            keep_alive(connection)
        usable = True
        try:
            # A daemon that stood still takes the connection when it goes on, and by then the VM may be in other hands.
            if given_up.is_set():
                raise StepFailed("nobody waited for it any more")
            return what(connection)
        except libvirt.libvirtError as error:
            usable = not broken_off(error)
            raise
        finally:
            with self._lock:
                usable = usable and begun_in == self._round
                if usable:
                    self._free.append(connection)
            if not usable:
                _close(connection)

    def drop(self) -> None:
        """Let go of all connections: the node was lost. What is being called on one ends with it."""
        with self._lock:
            dropped, self._free = self._free, []
            self._round += 1
        for connection in dropped:
            _close(connection)


def _close(connection: libvirt.virConnect) -> None:
    with suppress(libvirt.libvirtError):
        connection.close()
