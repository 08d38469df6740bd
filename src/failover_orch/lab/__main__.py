"""`python -m failover_orch.lab`: say what a lab lacks on this machine, or with `--install` install it (as root)."""

from __future__ import annotations

import argparse
import sys

from failover_orch.errors import LabError
from failover_orch.lab.guest import guest_image
from failover_orch.lab.packages import require


def main() -> int:
    """See to it that a lab can be started. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m failover_orch.lab", description=__doc__)
    parser.add_argument("--install", action="store_true", help="install what is missing, as root")
    install: bool = parser.parse_args().install
    try:
        require(install=install)
        if install:
            guest_image()
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
