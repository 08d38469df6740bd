"""A program of its own: a management controller that speaks IPMI 2.0 over LAN (pyghmi's), for `bmc.IpmiBmc`.

    python ipmi_bmc.py ADDRESS PORT USER PASSWORD

It first prints the port it listens at. For all that it is then asked it prints `power` or `off`, and reads from
standard input what to do: for `power` the answer, `1` or `0`, for `off` `ok`; or `silence`, and it does not answer. It
ends when standard input does. pyghmi keeps its sockets and a thread for as long as its process lives: hence one.
"""

from __future__ import annotations

import importlib
import os
import queue
import sys
import threading
from typing import Any


class _Silence(Exception):
    """The question is to be left without an answer."""


def main(address: str, port: str, user: str, password: str) -> None:
    """Answer until standard input ends."""
    replies: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(replies,), daemon=True).start()

    def ask(question: str) -> str:
        print(question, flush=True)  # noqa: T201 - to whoever started it
        reply = replies.get()
        if reply == "silence":
            raise _Silence
        return reply

    bmc = _bmc_class(ask)({user: password}, port=int(port), address=address)
    bmc.port = bmc.serversocket.getsockname()[1]
    print(bmc.port, flush=True)  # noqa: T201
    bmc.listen()


def _read(replies: queue.Queue[str]) -> None:
    for line in sys.stdin:
        replies.put(line.strip())
    os._exit(0)


def _bmc_class(ask: Any) -> Any:
    base: Any = importlib.import_module("pyghmi.ipmi.bmc").Bmc

    class _Bmc(base):  # type: ignore[misc]
        def get_power_state(self) -> int:
            return int(ask("power"))

        def power_off(self) -> None:
            ask("off")

        def handle_raw_request(self, request: Any, session: Any) -> None:
            try:
                self.respond(request, session)
            except _Silence:
                return

        def respond(self, request: Any, session: Any) -> None:
            # What pyghmi does, but for its catching of everything, silence too.
            match request["netfn"], request["command"]:
                case 0, 1:
                    self.get_chassis_status(session)
                case 0, 2:
                    self.control_chassis(request, session)
                case 6, 1:
                    self.send_device_id(session)
                case _:
                    session.send_ipmi_response(code=0xC1)

    return _Bmc


if __name__ == "__main__":
    main(*sys.argv[1:5])
