"""What a process that outlives its command must not take along."""

from __future__ import annotations

import os
import time
from pathlib import Path

from failover_orch.processes import alive, launch, terminate


def test_a_process_that_is_left_running_keeps_no_file_open_that_was_given_to_us(tmp_path: Path) -> None:
    """`flock FILE failover-orch kafka start` would hold its lock for as long as that Kafka runs."""
    given = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    os.set_inheritable(given, True)
    try:
        pid = launch(["/bin/sleep", "60"], output=tmp_path / "log", pid_file=tmp_path / "pid")
        try:
            deadline = time.monotonic() + 10
            while not alive(pid, mark="sleep"):
                assert time.monotonic() < deadline
            # A process that has just begun has its libraries open for a moment; what it was given stays open.
            while (held := sorted(entry.name for entry in Path(f"/proc/{pid}/fd").iterdir())) != ["0", "1", "2"]:
                assert time.monotonic() < deadline, held
        finally:
            terminate([pid], mark="sleep", grace_s=0)
    finally:
        os.close(given)
