"""`failover-orch kafka` and `failover-orch topics`, as people type them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer import Exit
from typer.testing import CliRunner

from failover_orch.cli import common
from failover_orch.cli import kafka as kafka_commands
from failover_orch.cli import topics as topics_commands
from failover_orch.cli.common import reported
from failover_orch.cli.common import settings as settings_for
from failover_orch.config import Settings
from failover_orch.errors import ConfigError, KafkaUnavailable
from failover_orch.kafka import LocalKafka, desired_topics


@pytest.fixture(autouse=True)
def no_kafka_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FAILOVER_ORCH_BOOTSTRAP", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def environment(settings: Settings) -> dict[str, str]:
    return {
        "FAILOVER_ORCH_TOPIC_PREFIX": settings.topic_prefix,
        "FAILOVER_ORCH_APP_ID": settings.app_id,
        "FAILOVER_ORCH_PARTITIONS": str(settings.partitions),
        "COLUMNS": "200",
    }


def test_no_kafka_at_all() -> None:
    with pytest.raises(ConfigError, match=r"no Kafka to talk to: start the local one"):
        settings_for(None)


def test_the_flag_goes_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAILOVER_ORCH_BOOTSTRAP", "from-environment:1")
    assert settings_for(None).bootstrap == "from-environment:1"
    assert settings_for("from-flag:1").bootstrap == "from-flag:1"


def test_a_running_local_kafka_is_found(kafka: LocalKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "LocalKafka", lambda: kafka)
    assert settings_for(None).bootstrap == kafka.bootstrap


def test_an_error_is_one_sentence_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exit) as ended, reported():
        raise KafkaUnavailable("nobody [there]: do this")
    assert ended.value.exit_code == 1
    captured = capsys.readouterr()
    assert captured.err == "failover-orch: nobody [there]: do this\n"
    assert captured.out == ""


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), reported():
        _ = 1 / 0


def test_status_of_none(tmp_path: Path) -> None:
    result = CliRunner().invoke(kafka_commands.app, ["status", "--directory", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stdout == f"Kafka was never started in {tmp_path}\n"
    result = CliRunner().invoke(kafka_commands.app, ["stop", "--directory", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (0, "Kafka was not running\n")


def test_start_and_status_of_one_that_runs(kafka: LocalKafka) -> None:
    where = ["--directory", str(kafka.directory)]
    result = CliRunner().invoke(kafka_commands.app, ["start", *where])
    assert (result.exit_code, result.stdout) == (0, f"Kafka runs at {kafka.bootstrap}\n")
    result = CliRunner().invoke(kafka_commands.app, ["status", *where], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert kafka.bootstrap in result.stdout
    result = CliRunner().invoke(kafka_commands.app, ["start", "--brokers", "3", *where])
    assert result.exit_code == 1
    assert "has 1 broker, and 3 were asked for" in result.stderr


def test_topics_that_are_there(settings: Settings) -> None:
    result = CliRunner().invoke(
        topics_commands.app, ["create", "--bootstrap", settings.bootstrap], env=environment(settings)
    )
    assert result.exit_code == 0
    assert result.stdout.count("as it ought to be") == len(desired_topics(settings, ("primary", "dr"), 1))


def test_topics_that_differ_are_in_a_table(settings: Settings) -> None:
    where = ["--bootstrap", settings.bootstrap, "--partitions", "5", "--site", "primary", "--site", "far"]
    result = CliRunner().invoke(topics_commands.app, ["check", *where], env=environment(settings))
    assert result.exit_code == 1
    lines = {tuple(part.strip() for part in line.split("│")[1:-1]) for line in result.stdout.splitlines()}
    assert (settings.names.of("vm-moved"), "partitions", "5", "4", "yes") in lines
    assert (settings.names.of("step-commands.far"), "5", "1", "by time", "missing") in lines


def test_topics_where_nobody_answers() -> None:
    result = CliRunner().invoke(topics_commands.app, ["check", "--bootstrap", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert result.stderr.startswith("failover-orch: no Kafka answers at 127.0.0.1:1 ")
    assert result.stderr.count("\n") == 1
