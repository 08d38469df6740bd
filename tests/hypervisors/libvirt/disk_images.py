"""Disk images as tests write and read them, with QEMU's tools and past the driver."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["described", "holds", "in_use", "run", "same", "write"]


def run(*command: str) -> None:
    """Run a command, which succeeds."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def write(image: Path | str, pattern: int, at: int = 0) -> None:
    """Write a MiB of the pattern at the offset, in MiB."""
    run("qemu-io", "-c", f"write -P {pattern} {at}M 1M", str(image))


def holds(image: Path | str, *patterns: int) -> bool:
    """Whether the image's first MiBs are of these patterns."""
    commands = [word for at, pattern in enumerate(patterns) for word in ("-c", f"read -P {pattern} {at}M 1M")]
    done = subprocess.run(["qemu-io", "-U", "-r", *commands, str(image)], capture_output=True, text=True, check=False)
    return done.returncode == 0 and "verification failed" not in done.stdout


@contextmanager
def in_use(image: Path | str) -> Iterator[None]:
    """What QEMU does to an image: it is open for writing, and locked."""
    with subprocess.Popen(["qemu-io", str(image)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.read(1)  # its prompt: the image is open
        yield
        process.stdin.close()
        process.stdout.read()


def same(here: Path | str, there: Path | str) -> bool:
    """Whether two images hold the same."""
    done = subprocess.run(["qemu-img", "compare", "-q", str(here), str(there)], capture_output=True, check=False)
    return done.returncode == 0


def described(image: Path | str) -> str:
    """What `qemu-img info` says of an image."""
    return subprocess.run(["qemu-img", "info", str(image)], capture_output=True, text=True, check=True).stdout
