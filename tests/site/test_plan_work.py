"""Scripts, HTTP calls and script gates: no Kafka."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from scripts_for_tests import CONTEXT, calling, checking, now, running_script, soon, write_script

from failover_orch.domain.facts import StepOutcome, StepResult
from failover_orch.domain.records import Action, StepCommand
from failover_orch.domain.settings import Gate, GateKind
from failover_orch.errors import ConfigError, StepRefused
from failover_orch.site.allowed import Allowed
from failover_orch.site.plan_work import PlanWork, is_plan_work, only_once
from worlds import command

PATIENCE_S = 30
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def run(asked: StepCommand, *directories: Path, urls: tuple[str, ...] = ()) -> StepResult:
    return await PlanWork("primary", Allowed(directories, urls), clock=now).run(asked, TRACEPARENT)


def test_which_commands_are_plan_work() -> None:
    assert is_plan_work(running_script("a"))
    assert is_plan_work(calling("http://a"))
    assert is_plan_work(checking("a"))
    assert not is_plan_work(replace(checking("a"), gate=Gate(GateKind.POWER)))
    assert not is_plan_work(command(Action.START))
    assert [only_once(asked) for asked in (running_script("a"), calling("http://a"), checking("a"))] == [
        True,
        True,
        False,
    ]


# Scripts


async def test_a_script_finds_its_context_and_nothing_of_the_agents_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_AGENT", "x")
    write_script(tmp_path, "tell", 'cat; echo; echo "$1|$2"; env')
    result = await run(running_script("tell", "two words", "$(date)"), tmp_path)
    assert (result.outcome, result.key, result.observed["exit_status"]) == (StepOutcome.DONE, "plan-1", "0")
    context, arguments, *environment = result.observed["output"].splitlines()
    assert (context, arguments) == (CONTEXT, "two words|$(date)")
    told = dict(line.split("=", 1) for line in environment)
    assert told["PATH"] == os.environ["PATH"]
    assert {name: value for name, value in told.items() if name.startswith("FAILOVER_ORCH_")} == {
        "FAILOVER_ORCH_RUN_ID": "run-1",
        "FAILOVER_ORCH_STEP": "before/notify",
        "FAILOVER_ORCH_ATTEMPT": "1",
        "FAILOVER_ORCH_KIND": "PLANNED",
    }
    assert "SECRET_OF_THE_AGENT" not in told
    assert int(result.observed["duration_ms"]) >= 0
    assert result.detail.startswith("tell ended with status 0 after ")


@pytest.mark.parametrize("context", ["", "no JSON", "[]", '{"kind": 5}'])
async def test_a_context_without_a_kind_is_no_reason_to_fail(context: str, tmp_path: Path) -> None:
    write_script(tmp_path, "kind", 'echo "<$FAILOVER_ORCH_KIND>"')
    result = await run(replace(running_script("kind"), context=context), tmp_path)
    assert result.observed["output"] == "<>"


async def test_a_script_that_fails_says_what_it_said_last(tmp_path: Path) -> None:
    write_script(tmp_path, "fail", "seq 1 100000; echo out of paper >&2; exit 3")
    result = await run(running_script("fail"), tmp_path)
    assert (result.outcome, result.observed["exit_status"]) == (StepOutcome.FAILED, "3")
    assert len(result.observed["output"]) == 2000
    assert result.detail.startswith("fail ended with status 3 after ")
    assert result.detail.endswith("\n100000\nout of paper")


async def test_a_script_that_a_signal_ends_has_failed(tmp_path: Path) -> None:
    write_script(tmp_path, "die", "kill -TERM $$")
    result = await run(running_script("die"), tmp_path)
    assert (result.outcome, result.observed["exit_status"]) == (StepOutcome.FAILED, "-15")
    assert "die was ended by signal 15" in result.detail
    assert result.detail.endswith("and said nothing")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie that nobody has reaped yet (its parent is gone too) does nothing any more.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


async def gone(pid: int) -> None:
    """A process that was killed ends when the kernel next gives it a turn, not within the call that killed it."""
    async with asyncio.timeout(PATIENCE_S):
        while alive(pid):  # noqa: ASYNC110 (another process's end)
            await asyncio.sleep(0.01)


async def written(path: Path) -> list[str]:
    async with asyncio.timeout(PATIENCE_S):
        while not path.exists() or not path.read_text().endswith("\n"):  # noqa: ASYNC110, ASYNC240 (another process writes it)
            await asyncio.sleep(0.01)
    return path.read_text().splitlines()  # noqa: ASYNC240 (a line)


async def test_at_its_deadline_a_script_and_all_it_started_are_killed(tmp_path: Path) -> None:
    write_script(tmp_path, "hang", f"sleep 600 & echo $! > {tmp_path}/child; echo working; wait")
    result = await run(running_script("hang", deadline_ms=soon(1)), tmp_path)
    assert (result.outcome, result.observed.get("exit_status")) == (StepOutcome.FAILED, None)
    assert "hang was killed at the step's deadline" in result.detail
    assert result.observed["output"] == "working"
    await gone(int((tmp_path / "child").read_text()))


async def test_a_script_dies_with_the_work_that_is_cancelled(tmp_path: Path) -> None:
    write_script(tmp_path, "hang", f"sleep 600 & echo $! > {tmp_path}/child; wait")
    task = asyncio.create_task(run(running_script("hang"), tmp_path))
    (pid,) = await written(tmp_path / "child")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(int(pid))


async def test_what_a_script_leaves_running_does_not_hold_up_its_end(tmp_path: Path) -> None:
    write_script(tmp_path, "start", f"sleep 600 & echo $! > {tmp_path}/child; echo started")
    try:
        result = await run(running_script("start"), tmp_path)
        assert (result.outcome, result.observed["output"]) == (StepOutcome.DONE, "started")
    finally:
        with suppress(ProcessLookupError):
            os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


async def test_what_is_late_or_elsewhere_is_not_begun(tmp_path: Path) -> None:
    write_script(tmp_path, "mark", f"touch {tmp_path}/begun")
    late = await run(running_script("mark", deadline_ms=now() - 1), tmp_path)
    assert (late.outcome, late.detail) == (StepOutcome.FAILED, "not begun: its deadline had passed")
    elsewhere = await run(replace(running_script("mark"), site="dr"), tmp_path)
    assert (elsewhere.outcome, elsewhere.detail) == (
        StepOutcome.REFUSED,
        "this command is for site dr and came to primary",
    )
    assert not (tmp_path / "begun").exists()


async def test_what_cannot_be_started_is_refused_with_a_sentence(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    write_script(inside, "good", "exit 0")
    write_script(inside, "not-executable", "exit 0", mode=0o644)
    (inside / "no-program").write_bytes(b"\x00\x01")
    (inside / "no-program").chmod(0o755)
    other = write_script(outside, "other", "exit 0")
    (inside / "link").symlink_to(other)
    said = {
        name: await run(running_script(*name.split()), inside)
        for name in (
            "missing",
            "not-executable",
            "no-program",
            "link",
            "../outside/other",
            str(other),
            "/bin/sh",
            ".",
            "nul\0",
            "",
        )
    }
    assert {result.outcome for result in said.values()} == {StepOutcome.REFUSED}
    assert said["missing"].detail == f"'missing' is not run: there is no such file in {inside}"
    assert said["not-executable"].detail == (
        f"{inside}/not-executable is not run: it may not be executed by this site agent's user; see its mode"
    )
    assert f"{inside}/no-program cannot be started: " in said["no-program"].detail
    for name in ("link", "../outside/other", str(other), "/bin/sh"):
        assert said[name].detail == f"{name!r} is not run: it lies outside of what --scripts allows here, {inside}"
    assert said[""].detail == "this RUN_SCRIPT does not say what to run: its command is empty"
    for name in ("good", "./good", str(inside / "good"), "../inside/good"):
        assert (await run(running_script(name), outside, inside)).outcome is StepOutcome.DONE


async def test_nothing_is_run_or_called_that_nobody_allowed(tmp_path: Path) -> None:
    script = write_script(tmp_path, "good", "exit 0")
    refused = await run(running_script(str(script)))
    assert (refused.outcome, refused.detail) == (
        StepOutcome.REFUSED,
        f"{str(script)!r} is not run: this site agent runs no scripts, unless started with --scripts",
    )
    refused = await run(calling("http://127.0.0.1:1/"))
    assert (refused.outcome, refused.detail) == (
        StepOutcome.REFUSED,
        "'http://127.0.0.1:1/' is not called: this site agent calls nothing, unless started with --allow-url",
    )


async def test_a_gate_is_asked_of_its_script(tmp_path: Path) -> None:
    write_script(tmp_path, "gate", f"test -e {tmp_path}/open || {{ echo still closed; exit 1; }}")
    closed = await run(checking("gate"), tmp_path)
    (tmp_path / "open").touch()
    opened = await run(checking("gate"), tmp_path)
    assert [closed.outcome, opened.outcome] == [StepOutcome.FAILED, StepOutcome.DONE]
    assert closed.detail.endswith("still closed")


async def test_a_bug_is_answered_too(tmp_path: Path) -> None:
    result = await run(calling("http://127.0.0.1:1/", method="ÄÖÜ"), urls=("http://127.0.0.1:1",))
    assert result.outcome is StepOutcome.FAILED
    assert result.detail.startswith("unexpected TypeError: ")


# HTTP calls


@dataclass
class Endpoint:
    """A web server that answers every request the same, and keeps what it was asked."""

    answer: bytes
    url: str = ""
    requests: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next((int(line[15:]) for line in head.lower().splitlines() if line.startswith("content-length:")), 0)
        self.requests.append(head + (await reader.readexactly(length)).decode())
        writer.write(self.answer)
        with suppress(ConnectionError):
            await writer.drain()
        if self.answer:
            writer.close()
        else:
            await reader.read()
            writer.close()


@asynccontextmanager
async def endpoint(answer: bytes) -> AsyncIterator[Endpoint]:
    one = Endpoint(answer)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield one


def reply(status: str, body: str = "", *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers, "", body)
    return "\r\n".join(lines).encode()


async def test_a_call_carries_the_context_and_what_makes_it_safe_to_repeat() -> None:
    async with endpoint(reply("202 Accepted", "on it")) as there:
        asked = replace(calling(f"{there.url}/hooks/dr?a=1", method="PUT"), run_id="run ä")
        result = await run(asked, urls=(f"{there.url}/hooks",))
    assert (result.outcome, result.detail) == (StepOutcome.DONE, f"PUT {there.url}/hooks/dr?a=1 was answered 202")
    assert result.observed == {"status": "202", "body": "on it"}
    (request,) = there.requests
    head, _, body = request.partition("\r\n\r\n")
    assert head.startswith("PUT /hooks/dr?a=1 HTTP/1.1\r\n")
    assert body == CONTEXT
    headers = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:])
    assert headers["idempotency-key"] == "run%20%c3%a4/after/notify/1"
    assert (headers["traceparent"], headers["content-type"]) == (TRACEPARENT, "application/json")


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("204 No Content", StepOutcome.DONE),
        ("302 Found", StepOutcome.FAILED),
        ("404 Not Found", StepOutcome.REFUSED),
        ("503 Service Unavailable", StepOutcome.FAILED),
    ],
)
async def test_what_an_answer_means(status: str, outcome: StepOutcome) -> None:
    async with endpoint(reply(status, "", "location: /elsewhere")) as there:
        result = await run(calling(f"{there.url}/"), urls=(there.url,))
    assert (result.outcome, result.observed["status"], len(there.requests)) == (outcome, status[:3], 1)


async def test_of_a_long_answer_the_beginning_is_kept() -> None:
    async with endpoint(reply("500 No", "beginning " + "x" * 5_000_000)) as there:
        result = await run(calling(f"{there.url}/"), urls=(there.url,))
    assert (result.outcome, len(result.observed["body"])) == (StepOutcome.FAILED, 2000)
    assert "was answered 500 and said: beginning xxx" in result.detail


async def test_an_answer_that_would_unpack_to_a_gigabyte_is_not_unpacked() -> None:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(1 << 10)) + packer.flush()
    lines = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with endpoint(lines + bomb) as there:
        result = await run(calling(f"{there.url}/"), urls=(there.url,))
        (request,) = there.requests
    assert result.outcome is StepOutcome.DONE
    assert "accept-encoding: identity" in request.lower()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


async def test_no_answer_is_a_failure() -> None:
    async with endpoint(b"") as there:
        result = await run(calling(f"{there.url}/", deadline_ms=soon(0.5)), urls=(there.url,))
    assert (result.outcome, result.detail) == (
        StepOutcome.FAILED,
        f"POST {there.url}/: no answer by the step's deadline",
    )
    # Nobody listens there any more.
    result = await run(calling(f"{there.url}/"), urls=(there.url,))
    assert result.outcome is StepOutcome.FAILED
    assert result.detail.startswith(f"POST {there.url}/: ConnectError: ")


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://hooks.example/dr", True),
        ("https://hooks.example:443/dr/notify?x=/../", True),
        ("HTTPS://HOOKS.EXAMPLE/dr/", True),
        ("http://hooks.example/dr", False),
        ("https://hooks.example:8443/dr", False),
        ("https://hooks.example.evil.example/dr", False),
        ("https://hooks.example@evil.example/dr", False),
        ("https://hooks.example/drill", False),
        ("https://hooks.example/", False),
        ("https://hooks.example/dr/../admin", False),
        ("https://hooks.example/dr/%2e%2e/admin", False),
        ("https://hooks.example/dr/%2e%2e%5cadmin", False),
        ("file:///etc/passwd", False),
        ("https://[", False),
        ("", False),
        ("https://plain.example:8443/any/thing", True),
    ],
)
def test_which_urls_a_prefix_allows(url: str, allowed: bool) -> None:
    rules = Allowed((), ("https://hooks.example/dr", "https://plain.example:8443"))
    if allowed:
        assert rules.url(url)
    else:
        with pytest.raises(StepRefused, match="is not called"):
            rules.url(url)


@pytest.mark.parametrize(
    "prefix", ["hooks.example/dr", "ftp://hooks.example", "https://", "https://a@b", "https://a?b"]
)
def test_a_prefix_needs_scheme_and_host(prefix: str) -> None:
    with pytest.raises(ConfigError, match="expected scheme, host and path"):
        Allowed((), (prefix,))


def test_a_directory_of_scripts_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--scripts .*/none: expected a directory"):
        Allowed((tmp_path / "none",), ())
