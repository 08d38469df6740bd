"""The lock files: every package pinned and hashed, in step with pyproject.toml and with what is installed.

| | what is looked at | what has to be so |
| --- | --- | --- |
| L1 | every entry of a lock | one exact version, and hashes; no address, no path, no option |
| L2 | what pyproject.toml asks for | the lock has it, in a version that it allows |
| L3 | what that needs in turn, as the installed packages say | the same |
| L4 | what is installed of all that | the version of the lock |
| L5 | the two locks | no package in two versions; what is shipped is in both |
| L6 | what the code imports | pyproject.toml asks for it by name: that another package brings it along may end |

uv is not needed: only `make lock`, which writes the locks, has to resolve anything.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

__all__ = ["Asked", "Locked", "asked_for", "findings", "imported", "needed", "read_lock", "unasked"]

_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Locked:
    """An entry of a lock file. `applies`: whether it is for this Python on this machine."""

    name: str
    version: str
    hashes: tuple[str, ...]
    line: int
    applies: bool = True


@dataclass(frozen=True, slots=True)
class Asked:
    """What pyproject.toml asks for: to be shipped, and for development besides."""

    shipped: tuple[Requirement, ...]
    development: tuple[Requirement, ...]
    extras: tuple[Requirement, ...] = ()


def asked_for(pyproject: Path) -> Asked:
    """The requirements in a pyproject.toml. Of the extras nothing is locked."""
    written = tomllib.loads(pyproject.read_text())
    return Asked(
        shipped=tuple(map(Requirement, written["project"]["dependencies"])),
        development=tuple(map(Requirement, written["dependency-groups"]["dev"])),
        extras=tuple(
            Requirement(text)
            for texts in written["project"].get("optional-dependencies", {}).values()
            for text in texts
        ),
    )


def read_lock(path: Path) -> tuple[list[Locked], list[str]]:
    """The entries of a lock file, and what is wrong with it (L1)."""
    entries: list[Locked] = []
    wrong: list[str] = []
    for line, text in _entries(path.read_text()):
        words = text.split(" --hash=", 1)
        hashes = tuple(_HASH.findall(text))
        where = f"{path.name}:{line}"
        try:
            requirement = Requirement(words[0].strip())
        except InvalidRequirement:
            wrong.append(f"L1 {where}: {words[0].strip()!r} is no package with a version: run `make lock`")
            continue
        pins = list(requirement.specifier)
        exact = len(pins) == 1 and pins[0].operator == "==" and "*" not in pins[0].version
        if requirement.url or not exact:
            wrong.append(f"L1 {where}: {requirement} is not pinned to one version with ==: run `make lock`")
        if not hashes or len(hashes) != text.count("--hash="):
            wrong.append(f"L1 {where}: {requirement.name} lacks its SHA-256 hashes: run `make lock`")
        entries.append(
            Locked(
                name=canonicalize_name(requirement.name),
                version=pins[0].version if pins else "",
                hashes=hashes,
                line=line,
                applies=requirement.marker is None or requirement.marker.evaluate(),
            )
        )
    return entries, wrong


def _entries(text: str) -> Iterator[tuple[int, str]]:
    """The logical lines of a requirements file, each with the number of its first line."""
    begun, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        bare = line.strip()
        if not parts and (not bare or bare.startswith("#")):
            continue
        begun = begun if parts else number
        parts.append(bare.removesuffix("\\").strip())
        if not bare.endswith("\\"):
            yield begun, " ".join(parts)
            parts = []


def needed(requirements: Iterable[Requirement], installed: Mapping[str, Sequence[str]]) -> Iterator[Requirement]:
    """These requirements, as far as they are for this Python, and all that they need in turn.

    `installed`: what each installed package asks for, by its name.
    """
    pending = [(requirement, "") for requirement in requirements]
    seen: set[tuple[str, str]] = set()
    while pending:
        requirement, extra = pending.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        yield requirement
        name = canonicalize_name(requirement.name)
        for each in ("", *requirement.extras):
            if (name, each) not in seen:
                seen.add((name, each))
                pending += [(Requirement(text), each) for text in installed.get(name, ())]


def findings(
    lock: str,
    entries: Sequence[Locked],
    requirements: Iterable[Requirement],
    versions: Mapping[str, str],
    installed: Mapping[str, Sequence[str]],
) -> Iterator[str]:
    """What is out of step with a lock (L2 to L4). `versions`: of what is installed, by name."""
    locked = {entry.name: entry for entry in entries if entry.applies}
    asked = set(requirements)
    told: set[str] = set()
    for requirement in needed(asked, installed):
        name = canonicalize_name(requirement.name)
        rule = "L2" if requirement in asked else "L3"
        entry = locked.get(name)
        if entry is None:
            if name not in told:
                yield f"{rule} {lock} lacks {name}, which is needed: run `make lock`"
        elif not requirement.specifier.contains(entry.version, prereleases=True):
            yield f"{rule} {lock}:{entry.line}: {name} {entry.version} is not {requirement}: run `make lock`"
        elif name not in told and versions.get(name) != entry.version:
            have = versions.get(name, "not")
            yield f"L4 {name} is {have} installed, and {entry.version} in {lock}: run `make install`"
        told.add(name)


def between(shipped: Sequence[Locked], development: Sequence[Locked]) -> Iterator[str]:
    """What the two locks have in different ways (L5)."""
    other = {entry.name: entry for entry in development}
    for entry in shipped:
        same = other.get(entry.name)
        if same is None or (same.version, set(same.hashes)) != (entry.version, set(entry.hashes)):
            has = "lacks it" if same is None else f"has {same.version}, or other hashes of it"
            yield f"L5 {entry.name} {entry.version} is in requirements.lock, and requirements-dev.lock {has}: make lock"


def imported(directory: Path) -> Mapping[str, Path]:
    """The packages that the code below a directory imports, besides Python's own and its own, each with one place."""
    files = sorted(directory.rglob("*.py"))
    own = {path.stem for path in files} | {path.parent.name for path in files}
    found: dict[str, Path] = {}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), path)):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in (name.partition(".")[0] for name in names):
                if name not in own and name not in sys.stdlib_module_names:
                    found.setdefault(name, path)
    return found


def unasked(
    imports: Mapping[str, Path], requirements: Iterable[Requirement], providers: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Imports of what no requirement names (L6). `providers`: the packages that have a module, by its name."""
    asked = {canonicalize_name(requirement.name) for requirement in requirements}
    for name, path in imports.items():
        have = [canonicalize_name(package) for package in providers.get(name, ())]
        if not asked.intersection(have) and canonicalize_name(name) not in asked:
            what = " or ".join(dict.fromkeys(have)) or "a package that is not installed"
            yield f"L6 {path.name} imports {name}, of {what}, which pyproject.toml does not ask for: add it there"


def installed_here() -> tuple[dict[str, str], dict[str, list[str]]]:
    """The versions of what is installed, and what each asks for, by their names."""
    here = list(metadata.distributions())
    return (
        {canonicalize_name(each.name): each.version for each in here},
        {canonicalize_name(each.name): list(each.requires or ()) for each in here},
    )
