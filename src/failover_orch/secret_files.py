"""Passwords and keys: always in files of their own, which only those may read who need them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from failover_orch.errors import ConfigError

__all__ = ["read_secret"]

_OF_OTHERS = stat.S_IRWXO
_MAX_BYTES = 65_536


def read_secret(path: Path) -> str:
    """What a secret's file holds, without the line end behind it.

    Raises:
        ConfigError: it cannot be read, is empty, is no text, or is open to everybody on this machine.

    """
    try:
        with path.open("rb") as file:
            # Of the open file: the name may stand for another one a moment later.
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"the secret's file {path} cannot be read: {error.strerror or error}") from None
    if mode & _OF_OTHERS:
        raise ConfigError(
            f"the secret's file {path} has the mode {stat.S_IMODE(mode):04o}, open to everybody: chmod 600 {path}"
        )
    try:
        secret = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError(f"the secret's file {path} is not UTF-8 text") from None
    if not secret or len(content) > _MAX_BYTES:
        raise ConfigError(f"the secret's file {path} is {'too long' if secret else 'empty'}; expected one secret")
    return secret
