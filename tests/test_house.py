"""The house: which room may import which, and what each shows to the others.

The rooms and what is in them are described in `docs/architecture.md`.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import failover_orch

SOURCE = Path(failover_orch.__file__).parent
SURFACE = Path(__file__).with_name("public_surface.txt")

BELOW_ALL = {"errors"}
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "domain": set(),
    "contract": {"domain"},
    "kafka_address": {"secret_files"},
    "config": {"contract", "kafka_address"},
    "telemetry": {"config"},
    "wire": {"contract", "kafka_address"},
    "streams": {"domain", "contract", "config", "telemetry", "wire", "kafka_address"},
    "audit": {"domain", "contract", "wire"},
    "yaml_reading": set(),
    "secret_files": set(),
    "fencing": {"domain", "telemetry", "secret_files"},
    "lab": {"processes"},
    "hypervisors": {"domain", "telemetry", "fencing"},
    "site": {
        "domain",
        "contract",
        "config",
        "telemetry",
        "wire",
        "kafka_address",
        "hypervisors",
        "fencing",
        "yaml_reading",
        "secret_files",
    },
    "service": {"domain", "contract", "config", "telemetry", "wire", "audit", "yaml_reading", "secret_files"},
    "consumers": {"contract", "config", "telemetry", "wire"},
    "topology": {"domain", "yaml_reading"},
    "processes": set(),
    "kafka": {"contract", "config", "wire", "kafka_address", "processes"},
    "adopting": {"domain", "contract", "config", "kafka_address", "wire", "streams"},
    "applying": {"domain", "contract", "config", "wire", "topology"},
    "state_reader": {"domain", "contract", "config", "wire", "streams"},
    "worker": {"contract", "config", "telemetry", "wire", "streams"},
}
"""For each room the rooms that it may import from, besides its own and `errors`. The others may import all."""
TOP = {"cli", "demo", "__main__"}
LIBRARIES = {
    "errors": set[str](),
    "domain": set[str](),
    "contract": {"fastavro", "httpx", "msgspec", "orjson"},
    "hypervisors": {
        "httpx",
        "libvirt",
        "libvirt_qemu",
        "libvirtaio",
        "msgspec",
        "pycdlib",
        "pypsrp",
        "starlette",
        "uvicorn",
    },
    "yaml_reading": {"yaml"},
    "secret_files": set[str](),
    "kafka_address": set[str](),
    "fencing": {"httpx"},
    "topology": set[str](),
}
"""The libraries, beyond Python's own, that the lowest rooms may use."""


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(SOURCE.rglob("*.py")):
        inside = path.relative_to(SOURCE)
        if inside == Path("__init__.py"):
            continue
        yield (inside.parts[0] if len(inside.parts) > 1 else inside.stem), path


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "failover_orch":
                yield from (f"failover_orch.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_every_room_is_on_the_plan() -> None:
    assert {room for room, _ in modules()} == set(ARROWS) | TOP


@pytest.mark.parametrize(
    ("room", "path"), list(modules()), ids=lambda value: str(value).rpartition("failover_orch/")[2]
)
def test_imports_point_down(room: str, path: Path) -> None:
    for name in imports(path):
        package, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if package == "failover_orch" and room not in TOP:
            assert other in {room} | BELOW_ALL | ARROWS[room], f"{room} must not import {name}"
        elif package not in sys.stdlib_module_names and room in LIBRARIES:
            assert package in LIBRARIES[room] | {"failover_orch"}, f"{room} must not use {package}"


@pytest.mark.parametrize("room", ["domain"])
def test_the_rules_know_no_clock_no_chance_and_no_world(room: str) -> None:
    banned = {
        "asyncio",
        "datetime",
        "logging",
        "os",
        "random",
        "secrets",
        "socket",
        "subprocess",
        "threading",
        "time",
        "uuid",
    }
    for found, path in modules():
        if found == room:
            assert not banned & {name.partition(".")[0] for name in imports(path)}, path


def surface() -> dict[str, list[str]]:
    packages = sorted({path.parent for _, path in modules() if path.parent != SOURCE})
    shown: dict[str, list[str]] = {}
    for package in packages:
        name = ".".join(("failover_orch", *package.relative_to(SOURCE).parts))
        shown[name] = list(getattr(importlib.import_module(name), "__all__", []))
    return shown


def test_each_package_shows_what_it_says() -> None:
    """The public surface is a file, so that a change of it is seen in review."""
    shown = surface()
    for package, names in shown.items():
        module = importlib.import_module(package)
        assert all(hasattr(module, name) for name in names), package
        assert module.__doc__, f"{package} has no docstring"
    lines = [f"{package}: {' '.join(names)}".rstrip() for package, names in shown.items()]
    assert SURFACE.read_text().splitlines() == lines


def test_outsiders_come_in_by_the_door() -> None:
    """Another room's names come from its package, not from a module inside. `domain`, only values, is open."""
    for room, path in modules():
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "failover_orch" and len(parts) > 2 and parts[1] not in (room, "domain"):
                inside = path.relative_to(SOURCE)
                assert SOURCE.joinpath(*parts[1:]).is_dir(), f"{inside} imports {name}: take it from its package"
