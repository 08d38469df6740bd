"""A demo's own processes: worker, site agents and the like, each a `failover-orch` of its own with a log file.

Their pids are in files, so that a demo that was left up, or died, can be ended by the next one.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from failover_orch.errors import FailoverOrchError
from failover_orch.processes import how_it_ended, launch, recorded, terminate

__all__ = ["ProcessEnded", "Processes"]

_GRACE_S = 10.0
_MARK = "failover_orch"
"""What is in the command line of every process of ours."""


class ProcessEnded(FailoverOrchError):
    """One of a demo's processes ended though nobody had told it to."""


class Processes:
    """The processes whose pids and logs are in one directory. `environment` is theirs: ours, and what was given."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self.environment = {**os.environ, **environment}
        self._wanted: set[str] = set()

    def start(self, name: str, *arguments: str, run: Sequence[str] = ()) -> None:
        """Start `failover-orch ARGUMENTS`, behind the prefix `run`, which must become that command itself."""
        command = [*_found(run), sys.executable, "-m", _MARK, *arguments]
        launch(command, output=self._log(name), pid_file=self._pid_file(name), environment=self.environment)
        self._wanted.add(name)

    def kill(self, name: str) -> None:
        """End one at once, as a power cut does."""
        self._wanted.discard(name)
        self._end(self._pid_file(name), grace_s=0)

    def require_alive(self) -> None:
        """See that all that were started still run.

        Raises:
            ProcessEnded: one does not; names its log.

        """
        for name in sorted(self._wanted):
            # Looked up once more after that: it may have been killed here, by another thread, in between.
            if recorded(self._pid_file(name), mark=_MARK) is None and name in self._wanted:
                how = how_it_ended(int(self._pid_file(name).read_text()))
                raise ProcessEnded(f"the {name} ended by itself ({how}); its log is {self._log(name)}")

    def stop(self) -> None:
        """End every process that the directory knows of, politely first."""
        self._wanted.clear()
        for pid_file in self._directory.glob("*.pid"):
            self._end(pid_file, grace_s=_GRACE_S)

    def _end(self, pid_file: Path, *, grace_s: float) -> None:
        pid = recorded(pid_file, mark=_MARK)
        if pid is not None:
            terminate([pid], mark=_MARK, grace_s=grace_s)
        pid_file.unlink(missing_ok=True)

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    def _pid_file(self, name: str) -> Path:
        return self._directory / f"{name}.pid"


def _found(command: Sequence[str]) -> list[str]:
    """A command with its program's path."""
    return [shutil.which(command[0]) or command[0], *command[1:]] if command else []
