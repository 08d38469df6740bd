"""What a lab says where the machine lacks something. Nothing is installed here."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from failover_orch.errors import LabError
from failover_orch.lab import Missing, missing, packages, require


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that alone is on the path, with a dpkg-query that knows of no package and a virsh."""
    monkeypatch.setenv("PATH", str(tmp_path))
    script(tmp_path, "dpkg-query", "exit 1")
    script(tmp_path, "virsh", "echo 7.7.7")
    return tmp_path


def script(directory: Path, name: str, body: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{body}\n")
    (directory / name).chmod(0o755)


def test_what_is_missing_is_said_as_commands() -> None:
    lacks = Missing(packages=("qemu-utils", "seabios"), account=True, binding="libvirt-python==9.0.0")
    assert lacks.sentence() == (
        "apt-get install --no-install-recommends qemu-utils seabios; then useradd --system --no-create-home "
        f"--shell /usr/sbin/nologin libvirt-qemu; then {sys.executable} -m pip install libvirt-python==9.0.0"
    )
    assert not Missing()
    assert Missing().sentence() == ""


def test_a_machine_without_any_package(tools: Path) -> None:
    lacks = missing()
    assert set(packages.PACKAGES) | set(packages.BUILD_PACKAGES) <= set(lacks.packages)
    assert lacks.binding == "libvirt-python==7.7.7"


def test_packages_that_are_there_are_not_missing(tools: Path) -> None:
    script(tools, "dpkg-query", "echo 'seabios installed'; echo 'qemu-utils config-files'; exit 1")
    assert "seabios" not in missing().packages
    assert "qemu-utils" in missing().packages


def test_the_binding_has_the_daemons_version(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "7.7.7")
    lacks = missing()
    assert lacks.binding == ""
    assert not set(packages.BUILD_PACKAGES) & set(lacks.packages)


def test_without_leave_to_install_it_is_said(tools: Path) -> None:
    with pytest.raises(
        LabError, match=r"lacks something of this machine: apt-get install --no-install-recommends bash"
    ):
        require(install=False)


def test_only_root_installs(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(LabError, match=r"\(only root may install it\): apt-get install"):
        require(install=True)


def test_an_installation_that_fails_is_tried_with_fresh_lists(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    calls = tools / "calls"
    script(tools, "apt-get", f'echo "$*" >>{calls}; case "$*" in *update) exit 0;; esac; exit 100')
    with pytest.raises(LabError, match=r"`apt-get .*install --yes.*` failed: run it by hand to see why"):
        require(install=True)
    said = calls.read_text().splitlines()
    assert [line.split()[-1] if "update" in line else "install" for line in said] == ["install", "update", "install"]


def test_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(LabError, match=r"a lab needs Debian on x86_64, and this is \w+ on aarch64"):
        missing()


def test_a_download_that_leaves_nothing(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    script(tools, "apt-get", "exit 0")
    with pytest.raises(LabError, match="apt-get download some-package` ended well and left no file"):
        packages.downloaded("some-package")
    script(tools, "apt-get", ': > "some-package_1_amd64.deb"')
    assert packages.downloaded("some-package").name == "some-package_1_amd64.deb"
    script(tools, "apt-get", "exit 1")
    assert packages.downloaded("some-package").name == "some-package_1_amd64.deb"


def test_the_command_says_what_is_missing(tools: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "failover_orch.lab"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(tools)},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("the lab lacks something of this machine: apt-get install")
    assert done.stderr.count("\n") == 1
