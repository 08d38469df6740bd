"""`python -m supply_chain`: the checks of `make check`; `--only NAME` for one of them, `bill FILE` for the bill."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from failover_orch.lab.guest.image import KERNEL_PACKAGE, PROGRAMS
from failover_orch.lab.packages import BUILD_PACKAGES, PACKAGES
from supply_chain import bill, foreign_parts, licences, locks, vulnerabilities

ROOT = Path(__file__).parents[2]
SHIPPED, DEVELOPMENT = ROOT / "requirements.lock", ROOT / "requirements-dev.lock"
OURS = (Requirement("failover-orch"),)
LIBVIRT = {name: ["libvirt-python"] for name in ("libvirt", "libvirt_qemu", "libvirtaio")}
"""Its modules: installed by `make virtual-machines` alone, where libvirt is."""
JAR_LIST = ROOT / "src" / "failover_orch" / "kafka" / "jars.sha256"


def main() -> int:
    arguments = _arguments()
    if arguments.bill is not None:
        arguments.bill.write_text(_bill())
        print(f"written: {arguments.bill}")  # noqa: T201 (output)
        return 0
    found = [finding for name, check in CHECKS.items() if arguments.only in ("", name) for finding in check()]
    for finding in found:
        print(f"supply chain: {finding}", file=sys.stderr)  # noqa: T201 (output)
    return 1 if found else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m supply_chain", description=__doc__)
    parser.add_argument("--only", choices=list(CHECKS), default="", help="this check alone")
    parser.add_argument("--bill", type=Path, metavar="FILE", help="write the bill of materials there instead")
    return parser.parse_args()


def check_locks() -> Iterator[str]:
    asked = locks.asked_for(ROOT / "pyproject.toml")
    versions, installed = locks.installed_here()
    shipped, wrong = locks.read_lock(SHIPPED)
    development, also_wrong = locks.read_lock(DEVELOPMENT)
    yield from (*wrong, *also_wrong)
    yield from locks.findings(SHIPPED.name, shipped, asked.shipped, versions, installed)
    every = (*asked.shipped, *asked.development)
    # What is shipped was told of already.
    told = {canonicalize_name(each.name) for each in locks.needed(asked.shipped, installed)}
    for finding in locks.findings(DEVELOPMENT.name, development, every, versions, installed):
        if not told.intersection(finding.split()):
            yield finding
    yield from locks.between(shipped, development)
    providers = {**LIBVIRT, **metadata.packages_distributions()}
    yield from locks.unasked(locks.imported(ROOT / "src"), (*asked.shipped, *asked.extras), providers)
    others = {**locks.imported(ROOT / "tests"), **locks.imported(ROOT / "benchmarks")}
    others = {name: path for name, path in others.items() if not (ROOT / name).is_dir()}
    yield from locks.unasked(others, (*every, *asked.extras, *OURS), providers)


def check_licences() -> Iterator[str]:
    yield from licences.findings(map(licences.declared, _packages()))
    yield from foreign_parts.jar_findings(_jars())
    yield from foreign_parts.debian_findings({*PACKAGES, *BUILD_PACKAGES, *PROGRAMS, KERNEL_PACKAGE})


def check_vulnerabilities() -> Iterator[str]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "failover-orch" / "advisories"
    told = vulnerabilities.audit((SHIPPED, DEVELOPMENT), cache)
    if not told.answered:
        why = told.why or f"it carries none for any of the {told.asked} packages"
        print(f"known vulnerabilities: not checked, the registry's advisories are out of reach: {why}")  # noqa: T201 (output)
    elif told.unknown:
        print(f"known vulnerabilities: the registry says nothing of {', '.join(told.unknown)}")  # noqa: T201 (output)
    yield from vulnerabilities.findings(told.found, datetime.now(UTC).date())


CHECKS = {"locks": check_locks, "licences": check_licences, "vulnerabilities": check_vulnerabilities}


def _packages() -> Iterator[metadata.Distribution]:
    """What is installed, as far as the locks have it, and Python's libvirt; what somebody tries out is not ours."""
    locked = {entry.name for lock in (SHIPPED, DEVELOPMENT) for entry in locks.read_lock(lock)[0]}
    for package in metadata.distributions():
        if canonicalize_name(package.name) in locked | {"libvirt-python"}:
            yield package


def _jars() -> dict[str, str]:
    return {line[66:]: line[:64] for line in JAR_LIST.read_text().splitlines()}


def _bill() -> str:
    product = licences.declared(metadata.distribution("failover-orch"))
    said = {each.name: each.licence for each in map(licences.declared, _packages())}
    said |= {name: licence for name, (licence, _) in licences.EXCEPTIONS.items()}
    return bill.bill(product, locks.read_lock(SHIPPED)[0], said, _jars())


if __name__ == "__main__":
    sys.exit(main())
