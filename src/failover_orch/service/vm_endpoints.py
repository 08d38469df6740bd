"""VMs over HTTP: where they are, how they stand, and what is set for them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Annotated

import msgspec
import orjson
from fastapi import Header, Response

from failover_orch.domain import Operation
from failover_orch.service.address_checks import check_addresses
from failover_orch.service.api import Api
from failover_orch.service.asking import acknowledgement
from failover_orch.service.bodies import AcknowledgementBody, AddressesBody
from failover_orch.service.callers import Known
from failover_orch.service.documents import HEADERS
from failover_orch.service.idempotency import IdempotencyKey
from failover_orch.service.policy_views import LimitsView, limits_of_vm
from failover_orch.service.subjects import vm_call
from failover_orch.service.views import AcceptedView, PlacementView, VmList, VmView, placement_view, vm_list, vm_view
from failover_orch.wire import now_ms

__all__ = ["NOT_MODIFIED", "IfNoneMatch", "answer_vms"]

IfNoneMatch = Annotated[str, Header(description="Tags that the caller has: 304 where one of them still holds.")]
NOT_MODIFIED = {304: {"description": "The caller has it already.", "headers": {"ETag": HEADERS["ETag"]}}}


def answer_vms(api: Api) -> None:
    @api.endpoint("GET", "/v1/vms", VmList)
    async def vms(caller: Known, site: str = "", node: str = "", application: str = "") -> Response:
        """VMs by name. `site` and `node` match where a VM runs and where its replica lives."""
        model = api.everything()
        caller.require_somewhere(Operation.LOOK)
        found = model.vms(site=site, node=node, application=application)
        seen = [vm for vm in found if caller.sees(vm_call, model, vm.vm_id)]
        return api.answer(vm_list(model, seen))

    @api.endpoint("GET", "/v1/vms/{vm}", VmView, headers=("ETag",), others=NOT_MODIFIED)
    async def one_vm(caller: Known, vm: str, if_none_match: IfNoneMatch = "") -> Response:
        """A VM by id or name: where it is, its epoch, health, run in flight and failover addresses."""
        model, found = api.vm(caller, vm)
        view = vm_view(model, found)
        return api.tagged(view, _tag(view), if_none_match, api.source.knowledge.partition_of(found.vm_id))

    @api.endpoint("GET", "/v1/vms/{vm}/placement", PlacementView)
    async def placement(caller: Known, vm: str) -> Response:
        """Where a VM's replica lives, or else where it would be placed, and why."""
        api.everything()
        model, found = api.vm(caller, vm)
        return api.answer(placement_view(model, found))

    @api.endpoint("GET", "/v1/vms/{vm}/limits", LimitsView)
    async def limits(caller: Known, vm: str) -> Response:
        """The limits that come out for a VM, each with the policy that it is from."""
        model, found = api.vm(caller, vm)
        return api.answer(limits_of_vm(model, found))

    @api.endpoint("PUT", "/v1/vms/{vm}/addresses", AcceptedView, status=202)
    async def set_addresses(caller: Known, vm: str, body: AddressesBody, key: IdempotencyKey) -> Response:
        """Set what a VM's adapters are to have after a failover, back at home, and in a test copy: all of it anew."""
        api.everything()
        model, found = api.vm(caller, vm, Operation.SET_ADDRESSES)
        wanted = replace(body.settings(found.vm_id), actor=caller.name, reason=body.reason, set_at_ms=now_ms())
        check_addresses(model, found, wanted)

        async def take(_: str) -> tuple[str, object]:
            await api.commands.publish(wanted)
            return f"/v1/vms/{found.vm_id}", AcceptedView(found.vm_id)

        return await api.command(caller, key, ("addresses", found.vm_id, body.model_dump(mode="json")), take)

    @api.endpoint("POST", "/v1/vms/{vm}/acknowledgement", AcceptedView, status=202)
    async def acknowledge(caller: Known, vm: str, body: AcknowledgementBody, key: IdempotencyKey) -> Response:
        """Say that you have looked into a VM's last automatic failover: another may follow before its cooldown ends."""
        _, found = api.vm(caller, vm, Operation.STEER)

        async def take(name: str) -> tuple[str, object]:
            run_id = f"acknowledgement-{name}"
            said = acknowledgement(
                found, run_id, actor=caller.name, reason=body.reason, ticket=body.ticket, at_ms=now_ms()
            )
            await api.commands.publish(replace(said, request_key=name))
            return f"/v1/vms/{found.vm_id}", AcceptedView(run_id)

        return await api.command(caller, key, ("acknowledge", found.vm_id, body.model_dump(mode="json")), take)


def _tag(view: VmView) -> str:
    """The epoch, and a digest of what changes within an epoch: health, a run's steps, settings. Not of `as_of`."""
    digest = hashlib.sha256(orjson.dumps(msgspec.to_builtins(replace(view, as_of=None)))).hexdigest()
    return f'"{view.epoch}-{digest[:12]}"'
