"""`failover-orch replay`: the recording, for people to see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result
from workers import running_workers

from failover_orch.cli.replay import Truth, schedule
from failover_orch.cli.replay import replay as command
from failover_orch.config import Settings
from failover_orch.domain import MoveKind, VmMoved
from failover_orch.errors import ConfigError

RECORDING = Path(__file__).parents[1] / "data" / "libvirt-events.jsonl"


COMMAND = typer.Typer()
COMMAND.command()(command)


def replay(settings: Settings, *arguments: str, file: Path = RECORDING) -> Result:
    environment = {
        "FAILOVER_ORCH_BOOTSTRAP": settings.bootstrap,
        "FAILOVER_ORCH_APP_ID": settings.app_id,
        "FAILOVER_ORCH_TOPIC_PREFIX": settings.topic_prefix,
        "FAILOVER_ORCH_PARTITIONS": str(settings.partitions),
    }
    return CliRunner().invoke(COMMAND, [str(file), *arguments], env=environment)


def test_a_replay_ends_as_the_truth_says_and_a_second_one_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    with running_workers(settings, tmp_path, 1) as workers:
        first = replay(settings)
        assert (first.exit_code, first.stderr) == (0, "")
        assert "16 live moves told" in first.stdout
        assert "every VM is where the truth file says" in first.stdout
        assert "app1" in first.stdout
        again = replay(settings, "--double", "--delay", "dr-node-1=3.5", "--speed", "1000")
        assert (again.exit_code, again.stderr) == (0, "")
        assert "nothing changed" in again.stdout
        assert workers.left == []
        wrong = tmp_path / "wrong.json"
        wrong.write_text(json.dumps({"final": {"7e000000-0000-4000-8000-000000000001": "dr-node-2"}}))
        other = replay(settings, "--truth", str(wrong))
        assert other.exit_code == 1
        assert "is on dr-node-1, and should be on dr-node-2" in other.stdout


def test_without_a_worker_it_says_so_and_gives_up(settings: Settings) -> None:
    ended = replay(settings, "--timeout", "1")
    assert ended.exit_code == 1
    assert "no worker took the events within 1 s: start one with `failover-orch worker`" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--delay", "dr-node-9=1"), "has no node 'dr-node-9', but dr-node-1, dr-node-2"),
        (("--delay", "dr-node-1=soon"), "'soon' is no number; expected NODE=SECONDS"),
        (("--delay", "dr-node-1=-1"), "expected 0 seconds or more"),
        (("--delay", "dr-node-1=nan"), "expected 0 seconds or more"),
        (("--truth", "missing.json"), "missing.json: cannot be read as JSON"),
    ],
)
def test_what_is_wrong_with_an_argument_is_one_sentence(arguments: tuple[str, ...], said: str) -> None:
    ended = replay(Settings(bootstrap="127.0.0.1:1"), *arguments)
    assert ended.exit_code == 1
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_recording_without_moves_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    ended = replay(Settings(bootstrap="127.0.0.1:1"), file=empty)
    assert ended.exit_code == 1
    assert "tells of no VM that moved" in ended.stderr


@pytest.mark.parametrize("written", ["[]", '{"final": []}', '{"final": {"vm": 1}}', '{"vms": {"vm": null}}', "{"])
def test_a_truth_file_that_holds_something_else_is_refused(written: str, tmp_path: Path) -> None:
    path = tmp_path / "x.truth.json"
    path.write_text(written)
    with pytest.raises(ConfigError, match=str(path)):
        Truth.read(path, required=False)


def test_a_truth_file_that_is_not_there_is_no_error_unless_it_was_named(tmp_path: Path) -> None:
    assert Truth.read(tmp_path / "none.json", required=False) == Truth()
    with pytest.raises(ConfigError):
        Truth.read(tmp_path / "none.json", required=True)


def test_delays_change_the_order_between_nodes_and_never_that_of_one() -> None:
    recorded = [VmMoved("vm", "dr", node, MoveKind.LIVE, at * 1_000) for at, node in enumerate("abab")]
    sent = [(at, move.node, move.occurred_at_ms) for at, move in schedule(recorded, {"a": 1.5}, double=False)]
    assert sent == [(0.0, "b", 1_000), (0.5, "a", 0), (2.0, "b", 3_000), (2.5, "a", 2_000)]
    assert len(list(schedule(recorded, {}, double=True))) == 8
