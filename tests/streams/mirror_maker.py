"""MirrorMaker 2 as a process of the tests: it brings everything from one Kafka to another, as the guide sets it up."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from failover_orch.kafka.tools import LOG4J2, cache_directory, java, locked

__all__ = ["GUIDE", "SOURCE", "guide_properties", "mirroring"]

GUIDE = Path(__file__).parents[2] / "docs" / "high-availability.md"
SOURCE = "a"
"""What MirrorMaker 2 calls the Kafka that is mirrored."""
POM = Path(__file__).with_name("mirror_maker.xml")
FETCH_TIMEOUT_S = 600


def guide_properties() -> dict[str, str]:
    """The configuration that the guide gives, so that what is tried is what is told."""
    block = re.search(r"```properties\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert block is not None
    lines = [line for line in block.group(1).splitlines() if line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}


@contextmanager
def mirroring(source: str, target: str, directory: Path) -> Iterator[None]:
    """Mirror while the block runs. `source` and `target` are bootstrap addresses; one broker each."""
    one_broker = {name: "1" for name in guide_properties() if name.endswith("replication.factor")}
    properties = {
        **guide_properties(),
        **one_broker,
        f"{SOURCE}.bootstrap.servers": source,
        "b.bootstrap.servers": target,
    }
    written = directory / "mirror.properties"
    written.write_text("".join(f"{name} = {value}\n" for name, value in properties.items()))
    log = directory / "mirror.log"
    options = [
        "-Xmx400m",
        "-XX:+UseSerialGC",
        f"-Dlog4j2.configurationFile={LOG4J2}",
        f"-Dfailover.orch.kafka.log={log}",
    ]
    main = ["-cp", f"{_libraries()}/*", "org.apache.kafka.connect.mirror.MirrorMaker", str(written)]
    with (directory / "mirror.console").open("wb") as console:
        process = subprocess.Popen([str(java()), *options, *main], stdout=console, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _libraries() -> Path:
    """The directory with MirrorMaker's jars, fetched with Maven the first time."""
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    home = cache / "mirror-maker"
    with locked(cache / "mirror-maker.lock"):
        kept = home / POM.name
        if not kept.is_file() or kept.read_bytes() != POM.read_bytes():
            with tempfile.TemporaryDirectory(dir=cache) as temporary:
                fetched = Path(temporary) / "fetched"
                fetched.mkdir()
                shutil.copyfile(POM, fetched / POM.name)
                command = ["mvn", "-q", "-B", "-f", str(fetched / POM.name), "dependency:copy-dependencies"]
                command += ["-DincludeScope=runtime", f"-DoutputDirectory={fetched / 'libs'}"]
                subprocess.run(command, check=True, timeout=FETCH_TIMEOUT_S)
                shutil.rmtree(home, ignore_errors=True)
                fetched.rename(home)
    return home / "libs"
