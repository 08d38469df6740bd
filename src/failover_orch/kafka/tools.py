"""What the local Kafka needs of the machine: Java to run it, Maven to fetch its jars once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from failover_orch.errors import LocalKafkaError

__all__ = ["KAFKA_VERSION", "LOG4J2", "cache_directory", "java", "libraries", "locked"]

KAFKA_VERSION = "4.4.0"
OLDEST_JAVA = 17
FETCH_TIMEOUT_S = 900
POM = Path(__file__).with_name("pom.xml")
LOG4J2 = Path(__file__).with_name("log4j2.xml")
JARS = Path(__file__).with_name("jars.sha256")
"""Every jar that the pom resolves to, as `sha256sum` writes it: no other is run, wherever Maven had it from."""


def cache_directory() -> Path:
    """Where the jars and the default local Kafka live: below `$XDG_CACHE_HOME`, else `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "failover-orch"


def java() -> Path:
    """The Java to run Kafka with: `$JAVA_HOME`'s, else the one on the path.

    Raises:
        LocalKafkaError: there is none, or it is older than Kafka needs.

    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    how = f"install a JDK {OLDEST_JAVA} or newer (Debian, Ubuntu: apt install openjdk-17-jdk-headless)"
    if found is None:
        raise LocalKafkaError(f"java is not {f'in JAVA_HOME={home}' if home else 'on the path'}: {how}")
    asked = subprocess.run([found, "-version"], capture_output=True, text=True, check=False, timeout=60)
    version = re.search(r'version "(?:1\.)?(\d+)', asked.stderr + asked.stdout)
    if version is None:
        raise LocalKafkaError(f"{found} -version does not say a version (exit code {asked.returncode}): {how}")
    if int(version[1]) < OLDEST_JAVA:
        raise LocalKafkaError(f"{found} is Java {version[1]}, and Kafka {KAFKA_VERSION} needs {OLDEST_JAVA}: {how}")
    return Path(found)


def libraries(cache: Path | None = None, *, jars: Path | None = None) -> Path:
    """The directory with Kafka's jars, fetched with Maven when it is not there yet or the pom has changed.

    The directory appears whole or not at all, and only one process fetches at a time: the others wait and find it.
    Each time the jars are compared with the hashes in a file, ours or `jars`.

    Raises:
        LocalKafkaError: Maven is missing, or could not fetch; or a jar is not the one that it has to be.

    """
    listed = jars or JARS
    home = (cache or cache_directory()) / f"kafka-{KAFKA_VERSION}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with locked(home.with_name(f"{home.name}.lock")):
        wanted = POM.read_bytes()
        kept = home / POM.name
        if not kept.is_file() or kept.read_bytes() != wanted:
            with tempfile.TemporaryDirectory(prefix=f"{home.name}-", dir=home.parent) as temporary:
                fetched = Path(temporary) / "fetched"
                fetched.mkdir()
                shutil.copyfile(POM, fetched / POM.name)
                _fetch(fetched)
                _verify(fetched / "libs", listed, "Maven's repositories gave it, and nothing of it was kept")
                shutil.rmtree(home, ignore_errors=True)
                fetched.rename(home)
        else:
            _verify(home / "libs", listed, f"remove {home} to have it fetched anew")
    return home / "libs"


def _verify(directory: Path, jars: Path, what_to_do: str) -> None:
    """See that a directory holds the listed jars and no others: all of them go on Java's class path."""
    wanted = {name: sha256 for sha256, name in (line.split() for line in jars.read_text().splitlines())}
    there = {path.name: path for path in directory.iterdir()}
    for name in sorted(wanted.keys() | there.keys()):
        if name not in there:
            raise LocalKafkaError(f"{name} is missing of Kafka's jars in {directory}: {what_to_do}")
        if name not in wanted:
            raise LocalKafkaError(f"{name} in {directory} is none of the jars that Kafka is made of: {what_to_do}")
        with there[name].open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != wanted[name]:
            raise LocalKafkaError(f"{name} has the SHA-256 {found}, expected {wanted[name]}: {what_to_do}")


def _fetch(directory: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise LocalKafkaError(
            "mvn is not on the path, and Kafka's jars are fetched with it: install Maven (Debian, Ubuntu: apt install "
            "maven), or use another Kafka with --bootstrap or FAILOVER_ORCH_BOOTSTRAP"
        )
    # --strict-checksums: of Maven's plugins, too, which are not in our list.
    command = [maven, "-q", "-B", "--strict-checksums", "-f", str(directory / POM.name)]
    command += ["dependency:copy-dependencies"]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={directory / 'libs'}"]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=FETCH_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise LocalKafkaError(f"Maven has not fetched Kafka's jars in {FETCH_TIMEOUT_S} s: try again") from None
    if done.returncode != 0 or not any((directory / "libs").glob("kafka_*.jar")):
        said = next((line for line in done.stdout.splitlines() if "ERROR" in line), "it said nothing")
        raise LocalKafkaError(
            f"Maven could not fetch Kafka {KAFKA_VERSION} (exit code {done.returncode}): {said.strip()}; "
            "see that this machine reaches Maven Central or a mirror in ~/.m2/settings.xml, then try again"
        )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for whoever has it. The lock is gone with its process, however that ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
