"""The licences of all that is shipped or run, against a list of those that are fine with it.

For Python's packages their own metadata say it: License-Expression, or the classifiers, or the License field. For what
else the project fetches (`foreign_parts`) it is written down here, and a new part without a licence is a finding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata

from packaging.utils import canonicalize_name

__all__ = ["ALLOWED", "EXCEPTIONS", "Declared", "declared", "findings", "is_allowed"]

ALLOWED = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MIT-0",
        "MPL-2.0",  # of files, not of what uses them: theirs are unchanged
        "PSF-2.0",
    }
)
"""SPDX identifiers of licences that ask for no more than that they are passed on."""

EXCEPTIONS: Mapping[str, tuple[str, str]] = {
    "libvirt-python": ("LGPL-2.1-or-later", "imported unchanged and only where libvirt is; not in our wheel"),
    "pycdlib": ("LGPL-2.1-only", "imported unchanged, installed beside us and replaceable; not in our wheel"),
    "venusian": ("LicenseRef-Repoze", "faust's; BSD-3-Clause with a clause on trademarks and one on marking changes"),
}
"""By package: its licence, and why it is fine all the same. It is held to that licence."""

_NAMES: Mapping[str, str] = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd license": "BSD-3-Clause",
    "bsd-derived (repoze)": "LicenseRef-Repoze",
    "gnu lesser general public license v2 or later (lgplv2+)": "LGPL-2.1-or-later",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "lgplv2+": "LGPL-2.1-or-later",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "repoze public license": "LicenseRef-Repoze",
}
"""How licences are called where SPDX is not spoken."""
_NO_LICENCES = frozenset({"dfsg approved", "osi approved"})
_WORD = re.compile(r"\s*(\(|\)|[A-Za-z0-9.+-]+)")


@dataclass(frozen=True, slots=True)
class Declared:
    """A package with the SPDX expression of its licence; empty where its metadata do not say."""

    name: str
    version: str
    licence: str


def declared(package: metadata.Distribution) -> Declared:
    """What an installed package says of itself. Several classifiers all hold."""
    said = package.metadata
    expression = next(iter(said.get_all("License-Expression") or []), None)
    classifiers = [
        text.rpartition("::")[2].strip().lower()
        for text in said.get_all("Classifier") or []
        if text.startswith("License ::")
    ]
    named = [_NAMES.get(text, f"LicenseRef-{text}") for text in classifiers if text not in _NO_LICENCES]
    written = " ".join(said.get_all("License") or []).strip()
    if expression is None and named:
        expression = " AND ".join(dict.fromkeys(named))
    if expression is None:
        expression = _NAMES.get(written.lower(), written if len(written.split()) == 1 else "")
    return Declared(canonicalize_name(package.name), package.version, expression)


def is_allowed(expression: str, allowed: Iterable[str] = ALLOWED) -> bool:
    """Whether an SPDX expression is met by allowed licences: one of what OR joins, all of what AND does."""
    words = _WORD.findall(expression)
    if "".join(words) != "".join(expression.split()):
        return False
    held = frozenset(allowed)
    value, rest = _either(words, held)
    return value and not rest


def _either(words: list[str], allowed: frozenset[str]) -> tuple[bool, list[str]]:
    value, rest = _both(words, allowed)
    while rest[:1] == ["OR"]:
        more, rest = _both(rest[1:], allowed)
        value = value or more
    return value, rest


def _both(words: list[str], allowed: frozenset[str]) -> tuple[bool, list[str]]:
    value, rest = _one(words, allowed)
    while rest[:1] == ["AND"]:
        more, rest = _one(rest[1:], allowed)
        value = value and more
    return value, rest


def _one(words: list[str], allowed: frozenset[str]) -> tuple[bool, list[str]]:
    if words[:1] != ["("]:
        return bool(words) and words[0] in allowed, words[1:]
    value, rest = _either(words[1:], allowed)
    return value and rest[:1] == [")"], rest[1:]


def findings(packages: Iterable[Declared], exceptions: Mapping[str, tuple[str, str]] = EXCEPTIONS) -> Iterator[str]:
    """The packages whose licence is not known to be fine."""
    for package in packages:
        if package.name in exceptions:
            licence, _ = exceptions[package.name]
            if package.licence != licence:
                yield f"{package.name} {package.version} is under {package.licence!r}, and was let in with {licence}"
        elif not package.licence:
            yield f"{package.name} {package.version} does not say its licence: name it in licences.EXCEPTIONS"
        elif not is_allowed(package.licence):
            yield (
                f"{package.name} {package.version} is under {package.licence}, which is not in licences.ALLOWED: do "
                "without it, or name it in EXCEPTIONS with the reason"
            )
