"""Asks on a bridge who has an address: by ARP, or IPv6 neighbour solicitation.

So a test copy is heard on its isolated bridge, where nobody has an address to ping it from, and without giving the node
one, which might be that of its own network. It is sent to the node's own Python as a program, and so needs nothing
beyond the standard library:

    python3 - BRIDGE SECONDS ADDRESS=MAC...         prints `answers ADDRESS` for each that its MAC answers for

A guest with several adapters on the bridge may answer an ARP request from each of them: the right one has to be heard.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping

ARP, IPV6, EVERYTHING = 0x0806, 0x86DD, 0x0003
REQUEST, REPLY = 1, 2
ICMPV6, SOLICITATION, ADVERTISEMENT = 58, 135, 136
ARP_LENGTH, ADVERTISEMENT_LENGTH = 28, 64
"""Of a reply, without its Ethernet header: an advertisement up to the address that it is about."""
AGAIN_S = 0.5


def arp_request(own_mac: bytes, address: bytes) -> bytes:
    """A frame that asks who has an IPv4 address. The asker has none (RFC 5227), so nobody's table is changed."""
    question = struct.pack("!HHBBH", 1, 0x0800, 6, 4, REQUEST) + own_mac + bytes(4) + bytes(6) + address
    return b"\xff" * 6 + own_mac + struct.pack("!H", ARP) + question


def solicitation(own_mac: bytes, address: bytes) -> bytes:
    """A frame that asks who has an IPv6 address (RFC 4861), from the link-local address that goes with the MAC."""
    interface = bytes([own_mac[0] ^ 2]) + own_mac[1:3] + b"\xff\xfe" + own_mac[3:]
    source = b"\xfe\x80" + bytes(6) + interface
    group = b"\xff\x02" + bytes(9) + b"\x01\xff" + address[-3:]
    question = struct.pack("!BBHI", SOLICITATION, 0, 0, 0) + address + b"\x01\x01" + own_mac
    pseudo_header = source + group + struct.pack("!IBBBB", len(question), 0, 0, 0, ICMPV6)
    question = question[:2] + struct.pack("!H", checksum(pseudo_header + question)) + question[4:]
    header = struct.pack("!IHBB", 6 << 28, len(question), ICMPV6, 255) + source + group
    return b"\x33\x33" + group[-4:] + own_mac + struct.pack("!H", IPV6) + header + question


def checksum(data: bytes) -> int:
    """The Internet checksum, of data of an even length."""
    total = sum(int.from_bytes(data[place : place + 2], "big") for place in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def answered(frame: bytes) -> tuple[str, str] | None:
    """Which address this frame says that somebody has, and the MAC it came from; None where it says no such thing."""
    mac = ":".join(f"{byte:02x}" for byte in frame[6:12])
    kind, body = frame[12:14], frame[14:]
    arp, ipv6 = kind == struct.pack("!H", ARP), kind == struct.pack("!H", IPV6)
    if arp and len(body) >= ARP_LENGTH and body[6:8] == struct.pack("!H", REPLY):
        return socket.inet_ntop(socket.AF_INET, body[14:18]), mac
    if ipv6 and len(body) >= ADVERTISEMENT_LENGTH and body[6] == ICMPV6 and body[40] == ADVERTISEMENT:
        return socket.inet_ntop(socket.AF_INET6, body[48:64]), mac
    return None


def answers(bridge: str, seconds: float, macs: Mapping[str, str]) -> Iterator[str]:
    """The addresses that answer on the bridge, each from the MAC that is to have it, as they answer."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERYTHING)) as link:
        link.bind((bridge, 0))
        own_mac = link.getsockname()[4]
        questions: dict[tuple[str, str], tuple[str, bytes]] = {}
        for address, mac in macs.items():
            version = socket.AF_INET6 if ":" in address else socket.AF_INET
            packed = socket.inet_pton(version, address)
            ask = solicitation if version == socket.AF_INET6 else arp_request
            questions[socket.inet_ntop(version, packed), mac] = address, ask(own_mac, packed)
        deadline = time.monotonic() + seconds
        while questions and time.monotonic() < deadline:
            for _, question in questions.values():
                link.send(question)
            again = min(deadline, time.monotonic() + AGAIN_S)
            while questions and (left := again - time.monotonic()) > 0:
                link.settimeout(left)
                try:
                    found = answered(link.recv(2048))
                except TimeoutError:
                    break
                if found in questions:
                    yield questions.pop(found)[0]


if __name__ == "__main__":
    wanted = dict(pair.split("=") for pair in sys.argv[3:])
    for heard in answers(sys.argv[1], float(sys.argv[2]), wanted):
        print("answers", heard, flush=True)  # noqa: T201 - its standard output is the answer
