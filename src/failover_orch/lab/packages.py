"""What a lab needs of the machine: Debian packages, an account, and Python's libvirt."""

from __future__ import annotations

import fcntl
import os
import platform
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from failover_orch.errors import LabError
from failover_orch.lab.commands import run

__all__ = ["Missing", "cache_directory", "downloaded", "kept", "locked", "missing", "require"]

PACKAGES = (
    "bash",
    "busybox-static",
    "dnsmasq-base",
    "e2fsprogs",
    "genisoimage",
    "ipmitool",
    "iproute2",
    "iputils-ping",
    "libvirt-clients",
    "libvirt-daemon",
    "libvirt-daemon-driver-qemu",
    "qemu-system-x86",
    "qemu-utils",
    "seabios",
    "util-linux",
)
"""Not libvirt-daemon-system: that one would start a libvirt of the machine's own."""
BUILD_PACKAGES = ("gcc", "libc6-dev", "libvirt-dev", "pkg-config")
"""What Python's libvirt, which comes as source, is built with."""
BINDING = "libvirt-python"
BINDING_HASHES = {"9.0.0": "sha256:49702d33fa8cbcae19fa727467a69f7ae2241b3091324085ca1cc752b2b414ce"}
"""Of the versions that labs are known to have run with: Debian 12's. Another one is taken as the registry has it."""
ACCOUNT = "libvirt-qemu"
"""libvirt's QEMU driver does not start without this account, though a lab's QEMUs run as root."""
INSTALL_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class Missing:
    """What is not there. `binding` is what pip is to install; its version is known once libvirt is there."""

    packages: tuple[str, ...] = ()
    account: bool = False
    binding: str = ""

    def __bool__(self) -> bool:
        return bool(self.packages or self.account or self.binding)

    def sentence(self) -> str:
        """What to do, for people, as shell commands. Empty where nothing is missing."""
        steps = []
        if self.packages:
            steps.append(f"apt-get install --no-install-recommends {' '.join(self.packages)}")
        if self.account:
            steps.append(f"useradd --system --no-create-home --shell /usr/sbin/nologin {ACCOUNT}")
        if self.binding:
            steps.append(f"{sys.executable} -m pip install {self.binding}")
        return "; then ".join(steps)


def missing() -> Missing:
    """What of all that a lab needs is not there.

    Raises:
        LabError: this machine cannot have a lab at all.

    """
    if platform.machine() != "x86_64" or shutil.which("dpkg-query") is None:
        raise LabError(f"a lab needs Debian on x86_64, and this is {platform.system()} on {platform.machine()}")
    binding = _wanted_binding()
    wanted = [*PACKAGES, *(BUILD_PACKAGES if binding else ())]
    if binding and not Path(sysconfig.get_path("include"), "Python.h").exists():
        wanted.append(f"python{sys.version_info.major}.{sys.version_info.minor}-dev")
    asked = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    there = {line.split()[0] for line in asked.stdout.splitlines() if line.endswith(" installed")}
    return Missing(
        packages=tuple(package for package in wanted if package not in there),
        account=not any(entry.pw_name == ACCOUNT for entry in pwd.getpwall()),
        binding=binding,
    )


def require(*, install: bool) -> None:
    """See to it that all is there: with `install`, as root, install it; else say what is to be done.

    Python's libvirt goes into the environment of the running Python, in the version of the libvirt that is there.

    Raises:
        LabError: something is missing and was not to be, or could not be, installed.

    """
    lacks = missing()
    if not lacks:
        return
    if not install or os.geteuid() != 0:
        why = "" if not install else " (only root may install it)"
        raise LabError(f"the lab lacks something of this machine{why}: {lacks.sentence()}")
    if lacks.packages:
        _apt_get("install", "--yes", "--no-install-recommends", *lacks.packages)
    if lacks.account:
        run("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT)
    if binding := _wanted_binding():
        _install_binding(binding)
    if still := missing():
        raise LabError(f"after everything was installed the lab still lacks something: {still.sentence()}")


def _install_binding(binding: str) -> None:
    command = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    known = BINDING_HASHES.get(binding.partition("==")[2], "")
    if not known:
        run(*command, binding, timeout_s=INSTALL_TIMEOUT_S)
        return
    with tempfile.NamedTemporaryFile("w", suffix=".lock") as pinned:
        pinned.write(f"{binding} --hash={known}\n")
        pinned.flush()
        run(*command, "--require-hashes", "-r", pinned.name, timeout_s=INSTALL_TIMEOUT_S)


def _wanted_binding() -> str:
    """What pip has to install so that Python speaks to the libvirt that is there; empty where it does."""
    try:
        have = metadata.version(BINDING)
    except metadata.PackageNotFoundError:
        have = ""
    if shutil.which("virsh") is None:
        return "" if have else BINDING
    version = run("virsh", "--version").strip()
    return "" if have == version else f"{BINDING}=={version}"


def cache_directory() -> Path:
    """Where downloads and built guests are kept: below `$XDG_CACHE_HOME`, else `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "failover-orch" / "lab"


def kept(pattern: str) -> Path | None:
    """The package that was downloaded last of those whose file is called like this."""
    found = sorted((cache_directory() / "packages").glob(f"{pattern}_*.deb"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def downloaded(package: str) -> Path:
    """A package's file, downloaded when it is not there yet. It is not installed.

    Raises:
        LabError: apt could not download it.

    """
    directory = cache_directory() / "packages"
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory / "lock"):
        if (there := kept(package)) is not None:
            return there
        with tempfile.TemporaryDirectory(prefix="new-", dir=directory) as temporary:
            _apt_get("download", package, directory=Path(temporary))
            for path in Path(temporary).glob("*.deb"):
                path.rename(directory / path.name)
        if (there := kept(package)) is None:
            raise LabError(f"`apt-get download {package}` ended well and left no file")
        return there


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for whoever has it. The lock is gone with its process, however that ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _apt_get(*arguments: str, directory: Path | None = None) -> None:
    """Run apt-get; where that fails, once more with fresh lists: a new machine has none, an old one outdated ones."""
    command = ["apt-get", "--quiet=2", "--option", "APT::Sandbox::User=root", *arguments]
    if _ended_well(command, directory):
        return
    if os.geteuid() == 0:
        run("apt-get", "--quiet=2", "update", timeout_s=INSTALL_TIMEOUT_S)
    if not _ended_well(command, directory):
        raise LabError(
            f"`{' '.join(command)}` failed: run it by hand to see why; it needs the Debian archive or a mirror"
        )


def _ended_well(command: Sequence[str], directory: Path | None) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, check=False, timeout=INSTALL_TIMEOUT_S
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise LabError(f"`{' '.join(command)}` did not end: {error}") from error
    return done.returncode == 0
