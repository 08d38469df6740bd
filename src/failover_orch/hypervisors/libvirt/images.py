"""Image files on a node: what they say of themselves, and how they are moved and removed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from failover_orch.errors import StepFailed
from failover_orch.hypervisors.libvirt.nodes import Node

__all__ = ["Image", "beside", "images", "in_use", "move", "names_beside", "remove", "require_unused"]

_MOVE = 'while [ $# -ge 2 ]; do sync -- "$1"; mv -fT -- "$1" "$2"; sync -- "${2%/*}"; shift 2; done'
"""Safe from a loss of power before the next begins: the contents before the name, the name before what rests on it."""
_DESCRIBE = 'for image; do qemu-img info -U --output=json -- "$image"; done'


@dataclass(frozen=True, slots=True)
class Image:
    """An image file. `under` is the path of the one that it stands upon, empty where it is whole; sizes are bytes."""

    path: str
    format: str
    size: int
    under: str
    bitmaps: frozenset[str]
    data_elsewhere: bool
    """Its data are in another file, which nobody may send us."""


async def images(node: Node, paths: Sequence[str]) -> tuple[Image, ...]:
    """What the images say of themselves. One that runs can be read, too: what is asked here does not change."""
    if not paths:
        return ()
    text = (await node.run("sh", "-ec", _DESCRIBE, "sh", *paths)).decode()
    return tuple(_image(path, found) for path, found in zip(paths, _documents(text), strict=True))


async def in_use(node: Node, path: str) -> bool:
    """Whether somebody writes to the image: QEMU locks what it has open."""
    try:
        # Without -U this fails where somebody else writes.
        await node.run("qemu-img", "info", "--", path)
    except StepFailed as error:
        if "another process using" in str(error):
            return True
        raise
    return False


async def require_unused(node: Node, paths: Iterable[str]) -> None:
    """See that nobody writes to these images.

    Raises:
        StepFailed: somebody does.

    """
    for path in paths:
        if await in_use(node, path):
            raise StepFailed(f"{path} is in use on {node.name}: a VM runs from it")


async def move(node: Node, moves: Sequence[tuple[str, str]]) -> None:
    """Rename files, one after the other, each onto whatever has that name."""
    if moves:
        await node.run("sh", "-ec", _MOVE, "sh", *(name for each in moves for name in each))


async def remove(node: Node, paths: Iterable[str]) -> None:
    """Remove files, as far as they are there."""
    if doomed := list(paths):
        await node.run("rm", "-f", "--", *doomed)


async def names_beside(node: Node, paths: Sequence[str]) -> frozenset[str]:
    """The files at these paths, and those beside them whose names go on after a dot."""
    names = sorted({_escaped(PurePosixPath(path).name) for path in paths})
    directories = sorted({str(PurePosixPath(path).parent) for path in paths})
    wanted = [word for name in names for pattern in (name, f"{name}.*") for word in ("-o", "-name", pattern)]
    found = await node.run(*("find", *directories, "-maxdepth", "1", "-type", "f", "(", *wanted[1:], ")", "-print0"))
    return frozenset(found.decode().split("\0"))


def beside(path: str) -> str:
    """A file in the same directory, as an image names the one under it: it holds wherever that directory is mounted."""
    name = PurePosixPath(path).name
    # What stands before a colon QEMU takes for a protocol.
    return f"./{name}" if ":" in name else name


def _escaped(name: str) -> str:
    """The name as a pattern of `find` that nothing else matches."""
    return "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in name)


def _documents(text: str) -> Iterator[Mapping[str, Any]]:
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        yield document
        text = text[end:]


def _image(path: str, found: Mapping[str, Any]) -> Image:
    data = found.get("format-specific", {}).get("data", {})
    under = found.get("backing-filename", "")
    return Image(
        path=path,
        format=found["format"],
        size=found["virtual-size"],
        # An absolute path stays as it is.
        under=str(PurePosixPath(path).parent / under) if under else "",
        bitmaps=frozenset(bitmap["name"] for bitmap in data.get("bitmaps", ())),
        data_elsewhere="data-file" in data,
    )
