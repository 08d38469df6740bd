"""What an agent's administrator allows plans to run and to call: nothing, unless told otherwise."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import httpx

from failover_orch.errors import ConfigError, StepRefused

__all__ = ["Allowed"]

_PORTS = {"http": 80, "https": 443}


class Allowed:
    """The directories that scripts may lie in, and the prefixes of the URLs that may be called."""

    def __init__(self, scripts: Sequence[Path], urls: Sequence[str]) -> None:
        """Take directories and prefixes.

        Raises:
            ConfigError: one is no directory, or no prefix with scheme and host.

        """
        self._directories = tuple(path.resolve() for path in scripts)
        for path in self._directories:
            if not path.is_dir():
                raise ConfigError(f"--scripts {path}: expected a directory that is there")
        self._prefixes = tuple(_prefix(text) for text in urls)

    def script(self, name: str) -> Path:
        """The file that a script's name stands for: a path, or a name to look for in the allowed directories.

        Raises:
            StepRefused: it lies outside of them, or is not there, or cannot be executed.

        """
        if not self._directories:
            raise StepRefused(f"{name!r} is not run: this site agent runs no scripts, unless started with --scripts")
        directories = ", ".join(map(str, self._directories))
        try:
            # Followed to where it really is: a link inside may lead anywhere.
            candidates = [(directory / name).resolve() for directory in self._directories]
            inside = [path for path in candidates if any(path.is_relative_to(one) for one in self._directories)]
            found = next((path for path in inside if path.is_file()), None)
        except (OSError, ValueError) as error:
            raise StepRefused(f"{name!r} is not run: {error}") from None
        if not inside:
            raise StepRefused(f"{name!r} is not run: it lies outside of what --scripts allows here, {directories}")
        if found is None:
            raise StepRefused(f"{name!r} is not run: there is no such file in {directories}")
        if not os.access(found, os.X_OK):
            raise StepRefused(f"{found} is not run: it may not be executed by this site agent's user; see its mode")
        return found

    def url(self, text: str) -> httpx.URL:
        """A URL, if it is allowed.

        Raises:
            StepRefused: it is not, or is no URL.

        """
        if not self._prefixes:
            raise StepRefused(f"{text!r} is not called: this site agent calls nothing, unless started with --allow-url")
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL as error:
            raise StepRefused(f"{text!r} is not called: {error}") from None
        if not any(_covers(prefix, url) for prefix in self._prefixes):
            allowed = ", ".join(map(str, self._prefixes))
            raise StepRefused(f"{text!r} is not called: --allow-url allows {allowed} here")
        return url


def _prefix(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in _PORTS or not url.host or url.query or url.fragment or url.userinfo:
        raise ConfigError(f"--allow-url {text!r}: expected scheme, host and path, such as https://hooks.example/dr")
    return url


def _covers(prefix: httpx.URL, url: httpx.URL) -> bool:
    """Whether a URL begins with a prefix: with its origin, and with whole parts of its path."""
    path = unquote(url.path)
    # A server may take ".." out of a path, also where it is encoded, and so leave the prefix.
    if ".." in path.replace("\\", "/").split("/"):
        return False
    within = prefix.path.rstrip("/")
    return _origin(prefix) == _origin(url) and (path == within or path.startswith(f"{within}/"))


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or _PORTS.get(url.scheme)
