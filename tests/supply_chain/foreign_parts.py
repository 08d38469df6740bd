"""What the project fetches that is not Python's: Kafka's jars by Maven, and what a lab needs of Debian.

None of it is in our wheel. The jars are held to their hashes (`failover_orch.kafka`), Debian's packages by apt to the
archive's signature.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from supply_chain.licences import is_allowed

__all__ = ["DEBIAN", "JARS", "debian_findings", "jar_findings"]

JARS: Mapping[str, str] = {
    "HdrHistogram": "BSD-2-Clause OR CC0-1.0",
    "argparse4j": "MIT",
    "caffeine": "Apache-2.0",
    "commons-beanutils": "Apache-2.0",
    "commons-collections": "Apache-2.0",
    "commons-digester": "Apache-2.0",
    "commons-logging": "Apache-2.0",
    "commons-validator": "Apache-2.0",
    "hash4j": "Apache-2.0",
    "jackson-annotations": "Apache-2.0",
    "jackson-core": "Apache-2.0",
    "jackson-databind": "Apache-2.0",
    "jackson-dataformat-yaml": "Apache-2.0",
    "jackson-datatype-jdk8": "Apache-2.0",
    "jopt-simple": "MIT",
    "jose4j": "Apache-2.0",
    "jspecify": "Apache-2.0",
    "kafka-clients": "Apache-2.0",
    "kafka-coordinator-common": "Apache-2.0",
    "kafka-group-coordinator": "Apache-2.0",
    "kafka-group-coordinator-api": "Apache-2.0",
    "kafka-metadata": "Apache-2.0",
    "kafka-raft": "Apache-2.0",
    "kafka-server": "Apache-2.0",
    "kafka-server-common": "Apache-2.0",
    "kafka-share-coordinator": "Apache-2.0",
    "kafka-storage": "Apache-2.0",
    "kafka-storage-api": "Apache-2.0",
    "kafka-tools-api": "Apache-2.0",
    "kafka-transaction-coordinator": "Apache-2.0",
    "kafka_2.13": "Apache-2.0",
    "log4j-api": "Apache-2.0",
    "log4j-core": "Apache-2.0",
    "log4j-slf4j-impl": "Apache-2.0",
    "lz4-java": "Apache-2.0",
    "metrics-core": "Apache-2.0",
    "pcollections": "MIT",
    "re2j": "BSD-3-Clause",
    "scala-library": "Apache-2.0",
    "scala-logging_2.13": "Apache-2.0",
    "scala-reflect": "Apache-2.0",
    "slf4j-api": "MIT",
    "snakeyaml": "Apache-2.0",
    "snappy-java": "Apache-2.0",
    "zstd-jni": "BSD-2-Clause",
}
"""The licences of Kafka's jars, as their own poms say, by the jar's name without its version."""

_GPL_APART = "a program of its own, which Debian's user installs; nothing of it is linked with us or passed on"
DEBIAN: Mapping[str, tuple[str, str]] = {
    "bash": ("GPL-3.0-or-later", _GPL_APART),
    "busybox-static": ("GPL-2.0-only", _GPL_APART),
    "dnsmasq-base": ("GPL-2.0-only OR GPL-3.0-only", _GPL_APART),
    "dhcpcd-base": ("BSD-2-Clause", "runs in a lab's guests; in an image that stays on the machine"),
    "e2fsprogs": ("GPL-2.0-only", _GPL_APART),
    "gcc": ("GPL-3.0-or-later WITH GCC-exception-3.1", "builds Python's libvirt on the spot"),
    "genisoimage": ("GPL-2.0-only", _GPL_APART),
    "ipmitool": ("BSD-3-Clause", "the only one that runs outside labs, too: for IPMI fences"),
    "iproute2": ("GPL-2.0-only", _GPL_APART),
    "iputils-ping": ("BSD-3-Clause", _GPL_APART),
    "libc6-dev": ("LGPL-2.1-or-later", "builds Python's libvirt on the spot"),
    "libvirt-clients": ("LGPL-2.1-or-later", _GPL_APART),
    "libvirt-daemon": ("LGPL-2.1-or-later", _GPL_APART),
    "libvirt-daemon-driver-qemu": ("LGPL-2.1-or-later", _GPL_APART),
    "libvirt-dev": ("LGPL-2.1-or-later", "Python's libvirt is linked with it, dynamically"),
    "linux-image-cloud-amd64": (
        "GPL-2.0-only",
        "a lab's guests boot it; built into an image that stays on the machine",
    ),
    "pkg-config": ("GPL-2.0-or-later", "builds Python's libvirt on the spot"),
    "qemu-guest-agent": ("GPL-2.0-or-later", "runs in a lab's guests; in an image that stays on the machine"),
    "qemu-system-x86": ("GPL-2.0-only", _GPL_APART),
    "qemu-utils": ("GPL-2.0-only", _GPL_APART),
    "seabios": ("LGPL-3.0-only", _GPL_APART),
    "util-linux": ("GPL-2.0-or-later", _GPL_APART),
}
"""Debian's packages that a lab installs or takes apart: the licence of what is used, and why it is fine."""

_JAR = re.compile(r"(?P<name>.+?)-(?P<version>[0-9][A-Za-z0-9.-]*)\.jar")


def jar(file: str) -> tuple[str, str]:
    """Name and version of a jar, from its file's name."""
    match = _JAR.fullmatch(file)
    return (match["name"], match["version"]) if match else (file, "")


def jar_findings(files: Iterable[str], licences: Mapping[str, str] = JARS) -> Iterator[str]:
    """Jars whose licence is not written down here or not allowed, and names here that are no jar any more."""
    names = {jar(file)[0] for file in files}
    for name in sorted(names | set(licences)):
        if name not in licences:
            yield f"the jar {name} has no licence in foreign_parts.JARS: see its pom, and add it"
        elif name not in names:
            yield f"the jar {name} in foreign_parts.JARS is none of Kafka's any more: remove it"
        elif not is_allowed(licences[name]):
            yield f"the jar {name} is under {licences[name]}, which is not in licences.ALLOWED"


def debian_findings(packages: Iterable[str], licences: Mapping[str, tuple[str, str]] = DEBIAN) -> Iterator[str]:
    """Debian's packages that a lab installs and whose licence is not written down here."""
    for name in sorted(set(packages) - set(licences)):
        yield f"the Debian package {name} has no licence in foreign_parts.DEBIAN: see its copyright file, and add it"
