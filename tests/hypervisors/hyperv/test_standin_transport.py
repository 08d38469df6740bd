"""The stand-in is reached as Windows is: authentication, encryption, shells, pipelines, and what cuts them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from pypsrp.exceptions import AuthenticationError, WSManFaultError
from pypsrp.powershell import PowerShell, PSInvocationState, RunspacePool

from hyperv import Effect, Fault, StandIn, VMState
from hyperv.client import ask, connection, named, runspaces
from hyperv.wsman import OPERATION_TIMEOUT, SHELL_NOT_FOUND

_STARTING = named("vm-1", "Set-VM", Notes="done", Passthru=True)
_LARGE = "x" * 600_000
"""More than one message of the protocol holds."""


@pytest.fixture(params=["basic", "negotiate"])
def pool(stand_in: StandIn, request: pytest.FixtureRequest) -> Iterator[RunspacePool]:
    with runspaces(stand_in, auth=request.param) as opened:
        yield opened


class TestReached:
    def test_a_pipeline_runs_over_either_transport(self, pool: RunspacePool) -> None:
        (vm,) = ask(pool, ("Get-VM", {})).output
        assert (vm["Name"], str(vm["State"]), vm["State"].property_sets) == ("vm-1", "Running", [2])

    def test_messages_of_any_size_go_both_ways(self, pool: RunspacePool) -> None:
        answer = ask(pool, *named("vm-1", "Set-VM", Notes=_LARGE, Passthru=True))
        assert [vm["Notes"] for vm in answer.output] == [_LARGE]

    @pytest.mark.parametrize("auth", ["basic", "negotiate"])
    def test_a_wrong_password_is_refused(self, stand_in: StandIn, auth: str) -> None:
        with pytest.raises(AuthenticationError), runspaces(stand_in, auth=auth, password="wrong"):
            pass

    def test_a_password_that_was_changed_is_refused_from_the_next_request_on(
        self,
        stand_in: StandIn,
    ) -> None:
        with runspaces(stand_in) as pool:
            old = stand_in.password
            stand_in.change_password("another")
            with pytest.raises(AuthenticationError):
                ask(pool, ("Get-VM", {}))
            stand_in.change_password(old)

    def test_a_certificate_of_an_unknown_authority_is_not_trusted(self, stand_in: StandIn) -> None:
        with pytest.raises(requests.exceptions.SSLError), runspaces(stand_in, cert_validation=True):
            pass

    def test_messages_over_http_have_to_be_encrypted(self, stand_in: StandIn) -> None:
        with pytest.raises(AuthenticationError), runspaces(stand_in, auth="negotiate", encryption="never"):
            pass

    def test_what_goes_over_http_cannot_be_read(
        self,
        stand_in: StandIn,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        sent: list[bytes] = []
        send = requests.Session.send

        def listen(session: requests.Session, request: requests.PreparedRequest, **kwargs: object) -> requests.Response:
            answer = send(session, request, **kwargs)
            sent.extend((request.body if isinstance(request.body, bytes) else b"", answer.content))
            return answer

        monkeypatch.setattr(requests.Session, "send", listen)
        with runspaces(stand_in, auth="negotiate") as pool:
            ask(pool, ("Get-VM", {}))
        assert len(sent) > 6
        assert not [each for each in sent if b"Envelope" in each]


class TestShells:
    def test_a_closed_pool_leaves_no_shell(self, stand_in: StandIn) -> None:
        with runspaces(stand_in):
            assert stand_in.shells("p1") == 1
        assert stand_in.shells("p1") == 0

    def test_pipelines_run_side_by_side(self, stand_in: StandIn) -> None:
        stand_in.fail_next("Get-VMHost", Fault.HANG)
        with runspaces(stand_in, count=2) as pool:
            hanging = PowerShell(pool).add_cmdlet("Get-VMHost")
            hanging.begin_invoke()
            assert ask(pool, ("Get-VM", {})).output
            hanging.poll_invoke(timeout=1)
            assert hanging.state == PSInvocationState.RUNNING
            hanging.stop()

    def test_a_pipeline_waits_for_a_runspace(self, stand_in: StandIn) -> None:
        stand_in.fail_next("Get-VMHost", Fault.HANG)
        with runspaces(stand_in) as pool:
            hanging = PowerShell(pool).add_cmdlet("Get-VMHost")
            hanging.begin_invoke()
            waiting = PowerShell(pool).add_cmdlet("Get-VM")
            waiting.begin_invoke()
            waiting.poll_invoke(timeout=1)
            assert waiting.output == []
            hanging.stop()
            waiting.end_invoke()
            assert len(waiting.output) == 1

    def test_many_pools_at_once(self, stand_in: StandIn) -> None:
        found: list[str] = []

        def look(node: str) -> None:
            with runspaces(stand_in, node) as pool:
                for _ in range(5):
                    found.extend(vm["Name"] for vm in ask(pool, ("Get-VM", {})).output)

        threads = [threading.Thread(target=look, args=(node,)) for node in ("p1", "p2", "d1", "d2") * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == ["vm-1"] * 20

    def test_what_cannot_be_read_is_answered(self, pool: RunspacePool) -> None:
        # pypsrp calls every number one of 32 bits, which this is not.
        with pytest.raises(WSManFaultError, match="cannot be read"):
            ask(pool, ("Set-VM", {"MemoryStartupBytes": 2**40}))

    def test_an_answer_that_was_lost_is_given_again(self, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
        with runspaces(stand_in) as pool:
            send = pool.connection.transport.send

            def twice(message: bytes, **options: Any) -> bytes:
                if b"shell/Receive" in message:
                    send(message, **options)
                answer: bytes = send(message, **options)
                return answer

            monkeypatch.setattr(pool.connection.transport, "send", twice)
            assert [vm["Name"] for vm in ask(pool, ("Get-VM", {})).output] == ["vm-1"]

    def test_the_node_says_how_large_messages_may_be(self, stand_in: StandIn) -> None:
        connected = connection(stand_in, stand_in.door("p1", seen_from="primary"))
        connected.update_max_payload_size()
        assert connected.max_envelope_size == 500 * 1024
        connected.close()

    def test_shells_that_were_closed_are_gone(self, stand_in: StandIn) -> None:
        with runspaces(stand_in) as pool:
            stand_in.close_shells("p1")
            with pytest.raises(WSManFaultError) as gone:
                ask(pool, ("Get-VM", {}))
            assert gone.value.code == SHELL_NOT_FOUND


class TestCut:
    @pytest.mark.parametrize(
        "cut",
        [lambda hosts: hosts.cut_link(), lambda hosts: hosts.power_off("dr"), lambda hosts: hosts.power_off_node("d1")],
        ids=["link", "site", "node"],
    )
    def test_a_call_under_way_ends_with_its_connection(self, cut: Callable[[StandIn], None]) -> None:
        # Nothing but the cut ends this call in time.
        with (
            StandIn(patience_s=60) as stand_in,
            runspaces(stand_in, "d1", seen_from="primary", operation_timeout=60, read_timeout=62) as pool,
        ):
            stand_in.fail_next("Get-VMHost", Fault.HANG)
            hanging = PowerShell(pool).add_cmdlet("Get-VMHost")
            hanging.begin_invoke()
            timer = threading.Timer(0.1, cut, [stand_in])
            timer.start()
            began = time.monotonic()
            with pytest.raises(requests.ConnectionError):
                hanging.end_invoke()
            timer.join()
            assert time.monotonic() - began < 30

    def test_a_cut_link_leaves_each_site_its_own_nodes(self, stand_in: StandIn) -> None:
        stand_in.cut_link()
        with runspaces(stand_in, "p1") as pool:
            assert ask(pool, ("Get-VM", {})).output
        with pytest.raises(requests.ConnectionError), runspaces(stand_in, "p1", seen_from="dr"):
            pass
        stand_in.restore_link()
        with runspaces(stand_in, "p1", seen_from="dr") as pool:
            assert ask(pool, ("Get-VM", {})).output

    def test_after_a_power_cut_shells_are_gone_and_vms_off(self, stand_in: StandIn) -> None:
        with runspaces(stand_in) as pool:
            stand_in.power_off("primary")
            with pytest.raises(requests.ConnectionError):
                ask(pool, ("Get-VM", {}))
            stand_in.power_on("primary")
            with pytest.raises(WSManFaultError):
                ask(pool, ("Get-VM", {}))
        with runspaces(stand_in) as pool:
            assert [str(vm["State"]) for vm in ask(pool, ("Get-VM", {})).output] == ["Off"]


class TestFaults:
    @pytest.mark.parametrize("effect", [Effect.NONE, Effect.DONE])
    @pytest.mark.parametrize("fault", [each for each in Fault if each not in (Fault.HANG, Fault.LATE)])
    def test_a_fault_is_met_and_the_effect_as_asked_for(
        self,
        stand_in: StandIn,
        fault: Fault,
        effect: Effect,
    ) -> None:
        stand_in.fail_next("Set-VM", fault, effect=effect, node="p1")
        with runspaces(stand_in) as pool:
            if fault in (Fault.NON_TERMINATING, Fault.TERMINATING):
                answer = ask(pool, *_STARTING)
                assert answer.failed == (fault is Fault.TERMINATING)
                assert answer.errors == ["OperationFailed,Microsoft.HyperV.PowerShell.Commands.SetVM"]
            else:
                with pytest.raises(_RAISED[fault]) as raised:
                    ask(pool, *_STARTING)
                assert getattr(raised.value, "code", None) == _CODES.get(fault)
        assert stand_in.vm("vm-1", "primary").notes == ("done" if effect is Effect.DONE else "")
        assert [each.cmdlet for each in stand_in.effects] == (["Set-VM"] if effect is Effect.DONE else [])

    def test_a_late_answer_is_waited_for(self, stand_in: StandIn) -> None:
        stand_in.fail_next("Set-VM", Fault.LATE, effect=Effect.DONE)
        with runspaces(stand_in) as pool:
            shell = PowerShell(pool)
            for name, parameters in _STARTING:
                shell.add_cmdlet(name).add_parameters(parameters)
            shell.begin_invoke()
            shell.poll_invoke()
            assert (shell.state, shell.output) == (PSInvocationState.RUNNING, [])
            assert len(shell.end_invoke()) == 1

    def test_a_pipeline_that_hangs_can_be_stopped(self, stand_in: StandIn) -> None:
        stand_in.fail_next("Set-VM", Fault.HANG)
        with runspaces(stand_in) as pool:
            shell = PowerShell(pool)
            for name, parameters in _STARTING:
                shell.add_cmdlet(name).add_parameters(parameters)
            shell.begin_invoke()
            began = time.monotonic()
            shell.poll_invoke(timeout=60)
            assert time.monotonic() - began < 30
            assert shell.state == PSInvocationState.RUNNING
            shell.stop()
            assert ask(pool, *_STARTING).output[0]["Notes"] == "done"

    def test_half_a_shutdown_goes_on_by_itself(self, stand_in: StandIn) -> None:
        stand_in.fail_next("Stop-VM", Fault.CUT, effect=Effect.HALF)
        with runspaces(stand_in) as pool:
            with pytest.raises(requests.RequestException):
                ask(pool, *named("vm-1", "Stop-VM", Force=True))
            (vm,) = ask(pool, ("Get-VM", {})).output
            assert str(vm["State"]) == VMState.Stopping
        stand_in.settle("vm-1", "primary")
        assert stand_in.vm("vm-1", "primary").state is VMState.Off


_RAISED: dict[Fault, type[Exception]] = {
    Fault.OPERATION_TIMEOUT: WSManFaultError,
    Fault.SHELL_GONE: WSManFaultError,
    Fault.UNAUTHORIZED: AuthenticationError,
    Fault.CUT: requests.exceptions.ChunkedEncodingError,
}
_CODES = {Fault.OPERATION_TIMEOUT: OPERATION_TIMEOUT, Fault.SHELL_GONE: SHELL_NOT_FOUND}
