"""Values that site files have and topology files do not: paths, secrets, addresses of services."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from failover_orch.errors import ConfigError
from failover_orch.secret_files import read_secret
from failover_orch.yaml_reading import IDENTIFIER, Entry, Pattern

__all__ = ["ANY_NAME", "ENDPOINT", "Here", "endpoint", "is_loopback", "texts_by_name", "url"]

ANY_NAME = Pattern(re.compile(r"\S(?:.*\S)?"), "one line of text without spaces around it")
ENDPOINT = Pattern(re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s\[\]:]+):[0-9]{1,5}"), "address:port, such as 10.0.0.1:8440")

_MAX_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Here:
    """Where a site file is: the paths in it begin at its directory."""

    site: str
    directory: Path

    def path(self, entry: Entry, key: str, *, required: bool = True) -> Path | None:
        """A path, whether or not anything is there; None where it is left out or wrong."""
        text = entry.text(key, required=required, expected="a path")
        return self.directory / text if text else None

    def file(self, entry: Entry, key: str, *, required: bool = True) -> Path | None:
        """The path of a file that is there; None where it is left out or wrong."""
        path = self.path(entry, key, required=required)
        if path is not None and not path.is_file():
            entry.mistake(key, f"{str(path)!r} is not there, or is no file; expected the path of a file")
            return None
        return path

    def secret_file(self, entry: Entry, key: str, *, required: bool = True) -> Path | None:
        """The path of a file that holds a secret and is not open to everybody; None where it is left out or wrong."""
        path = self.path(entry, key, required=required)
        if path is None:
            return None
        try:
            read_secret(path)
        except ConfigError as error:
            entry.mistake(key, str(error))
            return None
        return path

    def secret(self, entry: Entry, key: str, *, required: bool = True) -> str:
        """The secret that a file holds; empty where it is left out or wrong."""
        path = self.secret_file(entry, key, required=required)
        return "" if path is None else read_secret(path)


def url(entry: Entry, key: str, *schemes: str, required: bool = True) -> str:
    """A URL with one of these schemes and a host; empty where it is left out or wrong."""
    expected = f"a URL such as {schemes[0]}://10.0.0.1"
    text = entry.text(key, required=required, expected=expected)
    if not text:
        return ""
    try:
        parts = urlsplit(text)
        good = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or parts.username or parts.query or parts.fragment:
        entry.mistake(key, f"is {text!r}; expected {expected}")
        return ""
    return text.rstrip("/")


def endpoint(entry: Entry, key: str) -> str:
    """An `address:port`; empty where it is left out or wrong."""
    text = entry.text(key, required=False, pattern=ENDPOINT)
    if text and int(text.rpartition(":")[2]) > _MAX_PORT:
        entry.mistake(key, f"is {text!r}; expected a port of at most {_MAX_PORT}")
        return ""
    return text


def is_loopback(host: str) -> bool:
    """Whether an address, or `localhost`, is of this machine alone; other names may be anybody's."""
    bare = host.removeprefix("[").removesuffix("]")
    try:
        return ip_address(bare).is_loopback
    except ValueError:
        return bare == "localhost"


def texts_by_name(entry: Entry, key: str, names: Pattern = IDENTIFIER) -> dict[str, str]:
    """A mapping from names that the file gives to texts; empty where it is left out."""
    below = entry.entry(key, names)
    if below is None:
        return {}
    found = {name: below.text(name) for name in below.names}
    return {name: text for name, text in found.items() if text}
