"""A machine with power, and what stands for its management controller, for the tests of the fence agents."""

from __future__ import annotations

import datetime as dt
import threading
import time
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from failover_orch.fencing import Pace, Target

P1 = Target("primary", "p1")
PASSWORD = "secret"
FAST = Pace(deadline_s=8, again_s=0.3, poll_s=0.02)
SHORT = Pace(deadline_s=1.5, again_s=0.3, poll_s=0.02)


@dataclass
class Machine:
    """On until it is turned off, which takes it a moment."""

    on: threading.Event = field(default_factory=threading.Event)
    takes_s: float = 0.0

    def __post_init__(self) -> None:
        self.on.set()

    def powered(self) -> bool:
        return self.on.is_set()

    def power_off(self) -> None:
        # Time is what is modelled here: a chassis takes some to turn off.
        time.sleep(self.takes_s)
        self.on.clear()


def password_file(directory: Path, password: str = PASSWORD) -> Path:
    file = directory / "bmc.secret"
    file.write_text(f"{password}\n", encoding="utf-8")
    file.chmod(0o600)
    return file


def fake_tool(directory: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command of this name, found before any other."""
    tool = directory / name
    tool.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")


def self_signed(directory: Path, host: str = "127.0.0.1") -> tuple[Path, Path]:
    """A certificate for an address, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = directory / "bmc.crt", directory / "bmc.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files
