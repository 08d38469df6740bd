"""A guest that answers for its agent, and means harm: what it says is no answer, or little, and never without end."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from failover_orch.domain.inventory import AdapterKind
from failover_orch.errors import StepFailed
from failover_orch.hypervisors.libvirt import guest as agent
from failover_orch.hypervisors.libvirt.domain_xml import DomainAdapter
from failover_orch.hypervisors.libvirt.guest import Guest
from failover_orch.hypervisors.libvirt.node import Node

MAC = "52:54:00:33:00:01"
ADAPTERS = (DomainAdapter("nic-1", MAC, AdapterKind.SYNTHETIC, "br0", connected=True),)
ROUTES = "head\neth0 00000000 0101A8C0 0003 0 0 0 00000000 0 0 0\n"


class Channel:
    """A node whose guest answers as it likes."""

    def __init__(self, answers: Callable[[str], str]) -> None:
        self._answers = answers
        self._asked = ""

    def said(self, text: str) -> None:
        self._asked = json.loads(text)["execute"]

    async def call(self, _: object, *, within_s: float) -> str:
        return self._answers(self._asked)


def guest_of(answers: Callable[[str], str]) -> Guest:
    """A guest, whose answers are given by what it is asked."""
    channel = Channel(answers)

    class Asked(Guest):
        async def ask(self, command: str, **arguments: object) -> Any:
            channel.said(json.dumps({"execute": command}))
            return await super().ask(command, **arguments)

    return Asked(cast("Node", channel), "a-uuid", "vm-1 at dr")


def answer(value: object) -> str:
    return json.dumps({"return": value})


def a_file(content: bytes, *, eof: object = True) -> dict[str, object]:
    return {"buf-b64": base64.b64encode(content).decode(), "eof": eof}


def ordinary(**changed: str) -> Callable[[str], str]:
    """An agent like others, but for these answers, by command with underscores."""
    said = {
        "guest-file-open": answer(1000),
        "guest-file-read": answer(a_file(ROUTES.encode())),
        "guest-file-close": answer({}),
        "guest-network-get-interfaces": answer([]),
        "guest-exec": answer({"pid": 7}),
        "guest-exec-status": answer({"exited": True, "exitcode": 0}),
    }
    return (said | {name.replace("_", "-"): text for name, text in changed.items()}).__getitem__


def interfaces(*addresses: object, mac: object = MAC) -> str:
    return answer([{"name": "eth0", "hardware-address": mac, "ip-addresses": list(addresses)}])


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("guest_network_get_interfaces", "not JSON"),
        ("guest_network_get_interfaces", "[]"),
        ("guest_network_get_interfaces", "{}"),
        ("guest_network_get_interfaces", "[" * 100_000),
        ("guest_network_get_interfaces", answer(7)),
        ("guest_network_get_interfaces", answer([7])),
        ("guest_network_get_interfaces", answer([{}])),
        ("guest_network_get_interfaces", interfaces(mac=7)),
        ("guest_network_get_interfaces", interfaces("10.0.0.1/24")),
        ("guest_network_get_interfaces", interfaces({"ip-address": "$(reboot)", "prefix": 24})),
        ("guest_network_get_interfaces", interfaces({"ip-address": "10.0.0.1", "prefix": "24; reboot"})),
        ("guest_file_read", answer({"buf-b64": 7, "eof": True})),
        ("guest_file_read", answer({"buf-b64": "a", "eof": True})),
        ("guest_file_read", answer({})),
        ("guest_file_read", answer(a_file(b"head\n1 2 3\n"))),
        ("guest_file_read", answer(a_file(ROUTES.replace("0101A8C0", "zz").encode()))),
    ],
)
async def test_what_makes_no_sense_is_no_answer(command: str, said: str) -> None:
    with pytest.raises(StepFailed, match=r"the guest agent of vm-1 at dr answers .* in a way that makes no sense"):
        await guest_of(ordinary(**{command: said})).configured(ADAPTERS)


@pytest.mark.parametrize("said", [answer({}), answer({"pid": "-1; x"}), answer(None)])
async def test_a_command_that_never_was_is_no_answer(said: str) -> None:
    with pytest.raises(StepFailed, match="makes no sense"):
        await guest_of(ordinary(guest_exec=said)).run("ip", "link")


async def test_a_file_without_end_is_left() -> None:
    said = answer(a_file(b"x" * agent.READ_CHUNK, eof=False))
    with pytest.raises(StepFailed, match=r"gives more of /etc/resolv.conf than can be true"):
        await guest_of(ordinary(guest_file_read=said)).read("/etc/resolv.conf")


async def test_an_empty_file_without_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "READ_S", 0.2)
    began = time.monotonic()
    with pytest.raises(StepFailed, match=r"more of /etc/resolv.conf than can be true"):
        await guest_of(ordinary(guest_file_read=answer(a_file(b"", eof=False)))).read("/etc/resolv.conf")
    assert time.monotonic() - began < 10


async def test_of_a_hundred_thousand_addresses_few_are_told() -> None:
    many = [{"ip-address": f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", "prefix": 8} for n in range(100_000)]
    said = ordinary(guest_network_get_interfaces=interfaces(*many), guest_file_read=answer(a_file(b"")))
    told = await guest_of(said).configured(ADAPTERS)
    assert len(told["nic-1"].addresses) == 64


TEXTS = st.text(st.characters(codec="utf-8"), max_size=200)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda below: (
        st.lists(below, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "hardware-address", "ip-addresses", "ip-address", "prefix", "buf-b64", "eof"]),
            below,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(interfaces=JSON, content=TEXTS)
async def test_whatever_a_guest_says(interfaces: object, content: str) -> None:
    said = ordinary(
        guest_network_get_interfaces=answer(interfaces), guest_file_read=answer(a_file(f"head\n{content}".encode()))
    )
    with suppress(StepFailed):
        assert set(await guest_of(said).configured(ADAPTERS)) == {"nic-1"}
