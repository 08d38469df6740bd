"""Initial placement: on which node, and on which storage there, a VM's replica begins its life.

Pure and deterministic: clusters, nodes and replicas give the same answer in whatever order they come. Hard rules
(N1 to N7) refuse a node; what is left is scored, and the most points win, ties going to the first name. Points are
whole numbers, so that no rounding decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from failover_orch.domain.inventory import ClusterInventory, Node, NodeState, Storage, VmInventory

__all__ = [
    "MEMORY_RESERVE_PERCENT",
    "STORAGE_RESERVE_PERCENT",
    "WEIGHTS",
    "Candidate",
    "Placed",
    "Placement",
    "RefusedNode",
    "Score",
    "place",
]

MEMORY_RESERVE_PERCENT = 10
"""Share of a node's memory that replicas never fill: it is the node's own and for VMs that move there."""

STORAGE_RESERVE_PERCENT = 10
"""Share of a storage that initial copies never fill: replication logs and recovery points grow into it."""

WEIGHTS = {"anti_affinity": 2000, "memory": 400, "storage": 200, "application": 200, "replicas": 100}
"""Most points that each criterion can give.

Keeping an anti-affinity group apart outweighs all else together: the first member on a node costs half of its points.
"""


@dataclass(frozen=True, slots=True)
class Placed:
    """A replica that lives on a node. `memory_mib` is what it will need when it is started there.

    `storage` is empty where unknown; then only the free space that the node reports speaks for it.
    """

    vm_id: str
    node: str
    site: str
    anti_affinity: str = ""
    application: str = ""
    memory_mib: int = 0
    storage_gib: int = 0
    storage: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """Points for one criterion, `points` out of `weight`."""

    criterion: str
    points: int
    weight: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that could take the replica, with its best storage."""

    cluster: str
    node: str
    storage: str
    scores: tuple[Score, ...]

    @property
    def points(self) -> int:
        return sum(score.points for score in self.scores)


@dataclass(frozen=True, slots=True)
class RefusedNode:
    """A node that cannot take the replica. Each reason is a sentence with its rule's number in front."""

    cluster: str
    node: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a VM's replica goes: `node` and `storage`, or None where no node can take it.

    `candidates` are best first. `existing`: the replica is there already, and nothing was weighed.
    """

    vm_id: str
    site: str
    cluster: str | None
    node: str | None
    storage: str | None
    why: str
    candidates: tuple[Candidate, ...] = ()
    refused: tuple[RefusedNode, ...] = ()
    existing: bool = False


def place(
    vm: VmInventory,
    clusters: Sequence[ClusterInventory],
    replicas: Sequence[Placed],
    *,
    unfit: Mapping[tuple[str, str], str] = MappingProxyType({}),
    storage_location: str = "",
) -> Placement:
    """Find the node and storage for a VM's replica.

    `unfit` are nodes that cannot take a replica as they are set up, by cluster and name, each with the reason (N7; see
    `reception.unfit_nodes`). Where a `storage_location` is given, the replica goes there and nowhere else.

    `replicas` are the replicas that live at the VM's replica site; those of other sites are ignored. A VM that is among
    them is answered with where it is. Replicas are switched off, so what they will need is taken from the memory that
    their node reports as free; VMs that run there have been taken from it by the node itself.
    """
    site = vm.replication.replica_site
    there = [placed for placed in replicas if placed.site == site]
    own = min((placed for placed in there if placed.vm_id == vm.vm_id), key=lambda p: (p.node, p.storage), default=None)
    if own is not None:
        return _existing(vm, clusters, own)

    candidates: list[Candidate] = []
    refused: list[RefusedNode] = []
    terms = _Terms(unfit, storage_location)
    for offer in _offers(vm, clusters, there, terms):
        reasons = _refusals(offer)
        if reasons:
            refused.append(RefusedNode(offer.cluster.cluster, offer.node.name, reasons))
        else:
            candidates.append(_scored(offer))
    candidates.sort(key=lambda candidate: (-candidate.points, candidate.cluster, candidate.node))
    best = candidates[0] if candidates else None
    return Placement(
        vm_id=vm.vm_id,
        site=site,
        cluster=best.cluster if best else None,
        node=best.node if best else None,
        storage=best.storage if best else None,
        why=_why(candidates) if best else _why_not(vm, clusters, refused),
        candidates=tuple(candidates),
        refused=tuple(refused),
    )


@dataclass(frozen=True, slots=True)
class _Terms:
    """What the clusters' replication settings say to a placement."""

    unfit: Mapping[tuple[str, str], str]
    storage_location: str


@dataclass(frozen=True, slots=True)
class _Offer:
    """A node, seen as a home for the VM's replica."""

    vm: VmInventory
    cluster: ClusterInventory
    node: Node
    at_site: Sequence[Placed]
    terms: _Terms

    @property
    def here(self) -> list[Placed]:
        return [placed for placed in self.at_site if placed.node == self.node.name]

    @property
    def memory_left_mib(self) -> int:
        """Free memory once every replica here, this one among them, has been started."""
        return self.node.memory_free_mib - sum(placed.memory_mib for placed in self.here) - self.vm.memory_mib

    def storage_left_gib(self, storage: Storage) -> int:
        """Free space once this replica, and every other promised to the storage, has been copied.

        A replica just placed is not yet in the free space that the node reports, an older one is: the smaller of what
        is reported and what the promises leave counts each of them once.
        """
        # A cluster shared volume is reported by every node with the same figures; a promise on one node is one on all.
        sharing = {node.name for node in self.cluster.nodes if storage in node.storages}
        promised = sum(
            placed.storage_gib for placed in self.at_site if placed.storage == storage.path and placed.node in sharing
        )
        return min(storage.free_gib, storage.capacity_gib - promised) - self.vm.storage_gib

    @property
    def storages(self) -> tuple[Storage, ...]:
        """Where on this node the replica may go: what holds the location that it has to be at, else any."""
        location = self.terms.storage_location
        if not location:
            return self.node.storages
        holding = [storage for storage in self.node.storages if _holds(storage, location)]
        # A volume that is mounted inside another one is what the files below its own path are on.
        return tuple(sorted(holding, key=lambda storage: -len(storage.path)))[:1]

    @property
    def best_storage(self) -> Storage | None:
        roomy = [
            storage
            for storage in self.storages
            if self.storage_left_gib(storage) * 100 >= storage.capacity_gib * STORAGE_RESERVE_PERCENT
        ]
        return min(roomy, key=lambda storage: (-self.storage_left_gib(storage), storage.path), default=None)


def _offers(
    vm: VmInventory, clusters: Sequence[ClusterInventory], at_site: Sequence[Placed], terms: _Terms
) -> list[_Offer]:
    offers = [_Offer(vm, cluster, node, at_site, terms) for cluster in clusters for node in cluster.nodes]
    return sorted(offers, key=lambda offer: (offer.cluster.cluster, offer.node.name))


def _holds(storage: Storage, location: str) -> bool:
    """Whether a location is a storage, or lies on it. Windows knows its paths in any case, and by either slash."""
    windows = "\\" in location or location[1:2] == ":"
    path, wanted = storage.path, location
    if windows:
        path, wanted = path.replace("/", "\\").lower(), wanted.replace("/", "\\").lower()
    separator = "\\" if windows else "/"
    return wanted == path or wanted.startswith(path.rstrip(separator) + separator)


def _right_site(offer: _Offer) -> str:
    wanted = offer.vm.replication.replica_site
    if offer.cluster.site == wanted:
        return ""
    return f"{offer.cluster.cluster} is at site {offer.cluster.site}, the replica goes to {wanted or 'no site'}"


def _right_cluster(offer: _Offer) -> str:
    wanted = offer.vm.replication.replica_cluster
    if wanted in ("", offer.cluster.cluster):
        return ""
    return f"the replica goes to cluster {wanted}, not to {offer.cluster.cluster}"


def _accepts_replicas(offer: _Offer) -> str:
    return "" if offer.cluster.accepts_replicas else f"{offer.cluster.cluster} does not accept replicas"


def _node_up(offer: _Offer) -> str:
    return "" if offer.node.state is NodeState.UP else f"{offer.node.name} is {offer.node.state}"


def _memory_fits(offer: _Offer) -> str:
    reserve = -(-offer.node.memory_mib * MEMORY_RESERVE_PERCENT // 100)
    short = reserve - offer.memory_left_mib
    if short <= 0:
        return ""
    return (
        f"{offer.node.name} lacks {short} MiB of memory for {offer.vm.memory_mib} MiB "
        f"and a reserve of {reserve} MiB once all its replicas run"
    )


def _storage_fits(offer: _Offer) -> str:
    if offer.best_storage is not None:
        return ""
    if not offer.node.storages:
        return f"{offer.node.name} has no storage"
    if not offer.storages:
        return f"{offer.node.name} has no storage for {offer.terms.storage_location}, where this replica has to be"
    return (
        f"{offer.node.name} has no storage with room for {offer.vm.storage_gib} GiB "
        f"and a reserve of {STORAGE_RESERVE_PERCENT} %"
    )


def _settings_taken(offer: _Offer) -> str:
    return offer.terms.unfit.get((offer.cluster.cluster, offer.node.name), "")


_CLUSTER_RULES: tuple[tuple[str, Callable[[_Offer], str]], ...] = (
    ("N1", _right_site),
    ("N2", _right_cluster),
    ("N3", _accepts_replicas),
)

_NODE_RULES: tuple[tuple[str, Callable[[_Offer], str]], ...] = (
    ("N4", _node_up),
    ("N5", _memory_fits),
    ("N6", _storage_fits),
    ("N7", _settings_taken),
)


def _refusals(offer: _Offer) -> tuple[str, ...]:
    """Why the node cannot take the replica. What a node has left is asked only where the cluster is right."""
    for rules in (_CLUSTER_RULES, _NODE_RULES):
        reasons = tuple(f"{number}: {reason}" for number, rule in rules if (reason := rule(offer)))
        if reasons:
            return reasons
    return ()


def _scored(offer: _Offer) -> Candidate:
    storage = offer.best_storage
    if storage is None:
        raise ValueError(f"{offer.node.name} has no storage for {offer.vm.vm_id}")  # rule N6 has refused such a node
    here = offer.here
    group, application = offer.vm.anti_affinity, offer.vm.application
    members = sum(1 for placed in here if group and placed.anti_affinity == group)
    siblings = sum(1 for placed in here if application and placed.application == application)
    # Each criterion as a fraction of its weight: numerator and denominator.
    fractions = {
        "anti_affinity": (1, 1 + members),
        "memory": (offer.memory_left_mib, offer.node.memory_mib),
        "storage": (offer.storage_left_gib(storage), storage.capacity_gib),
        "application": (1, 1 + siblings),
        "replicas": (1, 1 + len(here)),
    }
    scores = tuple(
        Score(criterion, min(weight, weight * fractions[criterion][0] // max(1, fractions[criterion][1])), weight)
        for criterion, weight in WEIGHTS.items()
    )
    return Candidate(offer.cluster.cluster, offer.node.name, storage.path, scores)


def _existing(vm: VmInventory, clusters: Sequence[ClusterInventory], own: Placed) -> Placement:
    homes = [
        cluster.cluster
        for cluster in clusters
        if cluster.site == own.site and any(node.name == own.node for node in cluster.nodes)
    ]
    return Placement(
        vm_id=vm.vm_id,
        site=own.site,
        cluster=min(homes, default=None),
        node=own.node,
        storage=own.storage or None,
        why=f"the replica of {vm.vm_id} lives on {own.node} already.",
        existing=True,
    )


def _why(candidates: Sequence[Candidate]) -> str:
    best = candidates[0]
    where = f"{best.node} of {best.cluster}, on {best.storage}"
    if len(candidates) == 1:
        return f"{where}: the only node that can take the replica."
    second = candidates[1]
    if second.points == best.points:
        return f"{where}: as good as {second.node} with {best.points} points, and first by name."
    return (
        f"{where}: {best.points} points, the most of {len(candidates)} candidates; "
        f"{second.node} comes second with {second.points}."
    )


def _why_not(vm: VmInventory, clusters: Sequence[ClusterInventory], refused: Sequence[RefusedNode]) -> str:
    site = vm.replication.replica_site
    if not site:
        return f"{vm.vm_id} names no replica site."
    at_site = {cluster.cluster for cluster in clusters if cluster.site == site}
    reasons = [node.reasons[0].partition(": ")[2] for node in refused if node.cluster in at_site]
    if not reasons:
        return f"no node is known at site {site}."
    return f"no node at site {site} can take the replica: {'; '.join(dict.fromkeys(reasons))}."
