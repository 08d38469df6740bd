"""Where to send a new replica: a primary server asks the one name in front of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Response
from pydantic import Field, StringConstraints

from failover_orch.domain import (
    AcceptedAuthentication,
    Call,
    ClusterInventory,
    Guest,
    Operation,
    Placement,
    ReceptionRequest,
    Replication,
    ReplicationState,
    VmInventory,
    receive_replica,
)
from failover_orch.errors import ConfigError, LookupFailed
from failover_orch.service.access.protocol import BY_CERTIFICATE
from failover_orch.service.api import Api
from failover_orch.service.bodies import Body, Identifier
from failover_orch.service.callers import Caller, Known
from failover_orch.service.problems import Refused
from failover_orch.service.read_model import ReadModel
from failover_orch.service.subjects import vm_call
from failover_orch.service.views import as_of

__all__ = ["answer_placements"]

_Size = Annotated[int, Field(ge=0, le=2**40)]


class NewVmBody(Body):
    """A VM that nobody has reported yet. Memory in MiB, storage in GiB."""

    name: Annotated[str, StringConstraints(max_length=256)] = ""
    primary_site: Identifier
    memory_mib: _Size
    storage_gib: _Size
    cpus: _Size = 0
    application: Annotated[str, StringConstraints(max_length=256)] = ""
    anti_affinity: Annotated[str, StringConstraints(max_length=256)] = ""


class PlacementBody(Body):
    """Where is the replica of this VM to go? `new` describes one that is not known yet.

    `cluster` is the cluster's name, or its replica broker's; a VM that is known has one of its own.
    """

    primary_server: Identifier = Field(description="The host that asks, by its name with the domain.")
    vm: Identifier = Field(description="The VM, by its id, or by its name where it is known already.")
    new: NewVmBody | None = None
    cluster: Annotated[str, StringConstraints(max_length=256)] = ""
    trust_group: Annotated[str, StringConstraints(max_length=256)] = ""


@dataclass(frozen=True, slots=True)
class ReceptionView:
    """Send the replica there. Ports are 0 where that kind of authentication is not accepted.

    `existing`: the replica is there already. `version` is that of the cluster's settings, which all of it follows from.
    """

    as_of: str | None
    vm_id: str
    cluster: str
    node: str
    storage: str
    existing: bool
    broker: str
    http_port: int
    https_port: int
    authentication: AcceptedAuthentication
    certificate_thumbprint: str
    trust_group: str
    version: int
    why: str
    placement: Placement


def answer_placements(api: Api) -> None:
    @api.endpoint("POST", "/v1/placements", ReceptionView)
    async def place_replica(caller: Known, body: PlacementBody) -> Response:
        """Where a primary server is to send a VM's replica: node, storage, port, authentication, trust group, and why.

        What a rule refuses is 422, with the rules' numbers. Nothing is changed by asking.
        """
        model = api.everything()
        caller.require_somewhere(Operation.PLACE)
        _own_name(caller, body.primary_server)
        cluster, vm = _asked(model, body)
        if model.knows(vm.vm_id):
            caller.require(vm_call(Operation.PLACE, model, vm.vm_id))
        else:
            sites = frozenset({vm.replication.primary_site, vm.replication.replica_site})
            caller.require(Call(Operation.PLACE, sites))
        return api.answer(_received(model, cluster, vm, body))


def _own_name(caller: Caller, primary_server: str) -> None:
    """A server that proved who it is by its certificate asks for itself."""
    own = caller.name.casefold() == primary_server.casefold()
    if caller.principal.by == BY_CERTIFICATE and not own:
        raise caller.refused(
            Operation.PLACE, f"{caller.name} asks for {primary_server}: a server asks for itself alone"
        )


def _asked(model: ReadModel, body: PlacementBody) -> tuple[ClusterInventory, VmInventory]:
    """The cluster that is asked, and the VM as it is known or as the body describes it.

    Raises:
        LookupFailed: cluster or VM are not known.
        ConfigError: the body does not say what it has to, or says it of a VM that is known.

    """
    try:
        known = model.inventory_of(model.vm_id_of(body.vm))
    except LookupFailed:
        if body.new is None:
            raise
        known = None
    if known is not None:
        if body.new is not None:
            raise ConfigError(f"{body.vm} is known already: leave new out")
        cluster = _cluster(model, body.cluster or known.replication.replica_cluster, known.replication.replica_site)
        return cluster, known
    if body.new is None:
        raise LookupFailed(f"the inventory of {body.vm} is not known yet: describe it with new")
    cluster = _cluster(model, body.cluster, "")
    new = body.new
    return cluster, VmInventory(
        body.vm,
        new.name or body.vm,
        (),
        Guest(""),
        Replication(
            ReplicationState.READY_FOR_INITIAL_REPLICATION,
            new.primary_site,
            cluster.site,
            replica_cluster=cluster.cluster,
        ),
        memory_mib=new.memory_mib,
        cpus=new.cpus,
        storage_gib=new.storage_gib,
        application=new.application,
        anti_affinity=new.anti_affinity,
    )


def _cluster(model: ReadModel, name: str, site: str) -> ClusterInventory:
    """The cluster of this name, or whose replica broker has it; without a name the only one of a site."""
    if not name:
        there = [cluster for cluster in model.clusters() if cluster.site == site]
        if len(there) == 1:
            return there[0]
        raise ConfigError("name the cluster, or its replica broker, that the replica is to go to, in cluster")
    behind = [one for one in model.clusters() if one.broker and one.broker.casefold() == name.casefold()]
    return behind[0] if len(behind) == 1 else model.cluster(name)


def _received(model: ReadModel, cluster: ClusterInventory, vm: VmInventory, body: PlacementBody) -> ReceptionView:
    """Ask the rules. Raises Refused with what speaks against it."""
    reception = receive_replica(
        model.revision(cluster.cluster),
        {standing.node: standing for standing in model.standings(cluster.cluster)},
        model.clusters(),
        model.replicas(vm.vm_id),
        ReceptionRequest(body.primary_server, vm, cluster.cluster, body.trust_group),
    )
    placement = reception.placement
    if reception.refused or placement is None or reception.authentication is None:
        raise Refused("; ".join(reception.refused) or "no node can take the replica")
    return ReceptionView(
        as_of=as_of(model),
        vm_id=vm.vm_id,
        cluster=placement.cluster or "",
        node=placement.node or "",
        storage=placement.storage or "",
        existing=placement.existing,
        broker=reception.broker,
        http_port=reception.http_port,
        https_port=reception.https_port,
        authentication=reception.authentication,
        certificate_thumbprint=reception.certificate_thumbprint,
        trust_group=reception.trust_group,
        version=reception.version,
        why=placement.why,
        placement=placement,
    )
