"""What stands in events does not steer the terminal: neither in tables, nor in sentences, errors or logs."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import suppress

import pytest

from failover_orch.cli.harmless import harmless

NASTY = "vm\x1b]0;owned\x07\x1b[2J\x9b1A\r\x08\u202eexe"
SHOWN = "vm\ufffd]0;owned"
ORDERS = ("\x1b]", "\x1b[2J", "\x07", "\x08", "\x9b", "\u202e")
PROGRAM = f"""
import logging, logging.config, typer
from failover_orch import telemetry
from failover_orch.cli.access import show_table
from failover_orch.cli.common import console, stop
from failover_orch.cli.harmless import guard_output

nasty = {NASTY!r}
guard_output()
logging.config.dictConfig(telemetry.logging_config("INFO"))
typer.echo(f"1 {{nasty}}")
show_table("2", ["VM"], [[nasty]])
typer.echo(f"3 {{nasty}}")
console.print(f"4 {{nasty}}", style="green", markup=False, highlight=False)
telemetry.logger("test").warning("5", vm=nasty)
stop(f"6 {{nasty}}", 1)
"""


def at_a_terminal(program: str) -> str:
    """What a program shows at a terminal, standard error with it."""
    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "NO_COLOR": ""}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    shown = b""
    # The end of what a terminal shows is an error, to Linux.
    with suppress(OSError):
        while part := os.read(controller, 65536):
            shown += part
    os.close(controller)
    process.wait(timeout=30)
    return shown.decode()


def test_a_terminal_is_told_nothing_by_a_name() -> None:
    shown = at_a_terminal(PROGRAM)
    assert shown.count(SHOWN) == 6, shown
    assert not [order for order in ORDERS if order in shown]
    # Its own colours are left, and everything came in its order.
    assert "\x1b[31m" in shown
    places = [shown.index(f"{number} vm") for number in (1, 3, 4, 6)]
    assert places == sorted(places)


def test_a_file_has_no_orders_for_a_terminal_either() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.stdout.count(SHOWN) == 4
    assert done.stderr.count(SHOWN) == 1
    assert not [order for order in ORDERS if order in done.stdout + done.stderr]
    assert "\\u001b]0;owned" in done.stderr


@pytest.mark.parametrize("text", ["two\nlines\tand a tab", "Zürich 東京 \N{PILE OF POO}", ""])
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert harmless(text) == text
