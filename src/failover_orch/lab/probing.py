"""Asking VMs for an answer from inside a network namespace, where their addresses are routed."""

from __future__ import annotations

import ctypes
import json
import os
import threading
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar

from failover_orch.errors import LabError

__all__ = ["fetch_json", "in_namespace"]

CLONE_NEWNET = 0x40000000
T = TypeVar("T")


def in_namespace(namespace: str, work: Callable[[], T]) -> T:
    """Do something in a network namespace and return what came of it: sockets opened meanwhile belong to it.

    It is done in a thread of its own, since a thread that changed its namespace is no good for anything else.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def enter_and_work() -> None:
        try:
            _enter(namespace)
            results.append(work())
        except BaseException as error:  # noqa: BLE001 (raised again below, where the caller can see it)
            failures.append(error)

    thread = threading.Thread(target=enter_and_work)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def fetch_json(url: str, *, timeout_s: float) -> dict[str, Any]:
    """The JSON document at a URL.

    Raises:
        OSError: nobody answered within `timeout_s` seconds, or not with a document.

    """
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=timeout_s) as answer:
        try:
            document = json.load(answer)
        except ValueError as error:
            raise OSError(f"{url} answered with something else than JSON: {error}") from error
    if not isinstance(document, dict):
        raise OSError(f"{url} answered with something else than a JSON object")
    return document


def _enter(namespace: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        file = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise LabError(f"there is no network namespace {namespace}: was the lab started?") from None
    try:
        if libc.setns(file, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"the namespace {namespace} cannot be entered")
    finally:
        os.close(file)
