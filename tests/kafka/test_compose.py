"""What `compose/` says, held against what there is: commands, settings, files, versions. Needs no Docker."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from failover_orch import cli, config
from failover_orch.kafka.tools import KAFKA_VERSION

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}


def test_every_process_of_the_product_is_there() -> None:
    commands = sorted(" ".join(service["command"][:1]) for service in OURS.values())
    assert commands == ["serve", "site-agent", "site-agent", "topics", "worker"]


@pytest.mark.parametrize("name", OURS)
def test_a_command_is_one_that_the_product_has(name: str) -> None:
    command: Any = typer.main.get_command(cli.app)
    arguments = list(OURS[name]["command"])
    while hasattr(command, "commands"):
        assert arguments[0] in command.commands
        command = command.commands[arguments.pop(0)]
    # Parsing ends with an error where an option is unknown or a value is none of its kind.
    assert command.make_context(name, arguments).params


@pytest.mark.parametrize("name", OURS)
def test_a_variable_is_one_that_the_settings_know(name: str) -> None:
    known = set(re.findall(r"\b(?:FAILOVER_ORCH|OTEL)_[A-Z_]+", Path(config.__file__).read_text()))
    assert set(OURS[name]["environment"]) <= known
    values = {key: str(value) for key, value in OURS[name]["environment"].items() if not str(value).startswith("$")}
    advertised = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"//{config.Settings.from_environment(values).bootstrap}," in advertised


@pytest.mark.parametrize("name", SERVICES)
def test_it_waits_for_services_that_are_there(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        if how["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]


def test_kafka_is_the_one_that_is_tested_with() -> None:
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


def test_topics_are_made_for_the_sites_that_have_agents() -> None:
    def sites(name: str) -> list[str]:
        command = SERVICES[name]["command"]
        return [value for option, value in itertools.pairwise(command) if option == "--site"]

    agents = [name for name in OURS if name.startswith("site-agent-")]
    assert sorted(sites("topics")) == sorted(site for name in agents for site in sites(name))


@pytest.mark.parametrize("name", OURS)
def test_a_file_is_one_that_the_repository_has(name: str) -> None:
    service = OURS[name]
    context = (COMPOSE / service["build"]["context"]).resolve()
    assert context == ROOT
    assert (context / service["build"]["dockerfile"]).is_file()
    mounts = dict(volume.split(":")[1::-1] for volume in service.get("volumes", []))
    for inside, outside in mounts.items():
        if outside.startswith("."):
            assert (COMPOSE / outside).is_dir()
            for argument in service["command"]:
                if argument.startswith(f"{inside}/"):
                    assert (COMPOSE / outside / Path(argument).name).is_file()


def test_the_image_copies_what_the_repository_has() -> None:
    dockerfile = (COMPOSE / "Dockerfile").read_text()
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    let_in = {line[1:] for line in (COMPOSE / "Dockerfile.dockerignore").read_text().split() if line.startswith("!")}
    assert set(copied) == let_in
    assert [source for source in copied if not (ROOT / source).exists()] == []
