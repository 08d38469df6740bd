"""VMs by the names that people call them, and what to say of a name that nobody has."""

from __future__ import annotations

import difflib
from collections.abc import Collection

__all__ = ["NameIndex", "unknown"]


class NameIndex:
    """Which VMs are called by a name; upper and lower case are the same."""

    def __init__(self) -> None:
        self._called: dict[str, set[str]] = {}
        self._name: dict[str, str] = {}

    def put(self, vm_id: str, name: str) -> None:
        """A VM is called so from now on; empty: it is gone."""
        folded = name.casefold()
        known = self._name.get(vm_id, "")
        if folded == known:
            return
        if known:
            self._called[known].discard(vm_id)
            if not self._called[known]:
                del self._called[known]
        if folded:
            self._called.setdefault(folded, set()).add(vm_id)
            self._name[vm_id] = folded
        else:
            self._name.pop(vm_id, None)

    def called(self, name: str) -> list[str]:
        """The ids of the VMs of a name."""
        return sorted(self._called.get(name.casefold(), ()))


def unknown(kind: str, name: str, known: Collection[str]) -> str:
    """That nothing of a kind has this name, with what comes close."""
    if not known:
        return f"no {kind} {name!r} is known: none has been reported yet"
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"no {kind} {name!r} is known{hint}"
