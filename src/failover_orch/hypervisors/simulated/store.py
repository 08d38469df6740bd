"""The file a simulated world lives in: SQLite in WAL mode, shared by processes, changed in short transactions.

Values are kept whole, as JSON, beside the few columns they are looked up by.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from failover_orch.domain.facts import MoveKind, VmMoved
from failover_orch.domain.inventory import ClusterInventory, Node, NodeState, VmInventory
from failover_orch.domain.records import StepCommand
from failover_orch.domain.replication_settings import ReplicationServer, VmReplication
from failover_orch.errors import ConfigError, LookupFailed
from failover_orch.hypervisors.protocol import Observation, Observed
from failover_orch.hypervisors.rules.ends import End
from failover_orch.hypervisors.simulated.ends import Effect, FaultKind

__all__ = ["SCHEMA", "Store", "Transaction", "real_clock"]

_Value = TypeVar("_Value")

_VERSION = 3

SCHEMA = f"""
CREATE TABLE world (link_up INTEGER NOT NULL, boot_ms INTEGER NOT NULL, shutdown_ms INTEGER NOT NULL,
                    points_kept INTEGER NOT NULL);
CREATE TABLE sites (site TEXT PRIMARY KEY, powered INTEGER NOT NULL, number INTEGER NOT NULL);
CREATE TABLE clusters (cluster TEXT PRIMARY KEY, site TEXT NOT NULL, value TEXT NOT NULL);
CREATE TABLE vms (vm_id TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE ends (vm_id TEXT NOT NULL, site TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (vm_id, site));
CREATE INDEX ends_of_site ON ends (site);
CREATE TABLE sequences (vm_id TEXT NOT NULL, site TEXT NOT NULL, node TEXT NOT NULL, sequence INTEGER NOT NULL,
                        PRIMARY KEY (vm_id, site, node));
CREATE TABLE leases (number INTEGER PRIMARY KEY AUTOINCREMENT, site TEXT NOT NULL, vm_id TEXT NOT NULL,
                     adapter_id TEXT NOT NULL, UNIQUE (site, vm_id, adapter_id));
CREATE TABLE effects (number INTEGER PRIMARY KEY AUTOINCREMENT, site TEXT NOT NULL, vm_id TEXT NOT NULL,
                      action TEXT NOT NULL, run_id TEXT NOT NULL, step TEXT NOT NULL, attempt INTEGER NOT NULL,
                      value TEXT NOT NULL);
CREATE INDEX effects_of_vm ON effects (vm_id, run_id);
CREATE TABLE faults (number INTEGER PRIMARY KEY AUTOINCREMENT, subject TEXT NOT NULL, action TEXT NOT NULL,
                     kind TEXT NOT NULL, remaining INTEGER NOT NULL);
CREATE TABLE servers (site TEXT NOT NULL, node TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (site, node));
CREATE TABLE replications (vm_id TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE closed_ports (vm_id TEXT NOT NULL, port INTEGER NOT NULL, PRIMARY KEY (vm_id, port));
CREATE TABLE silenced (vm_id TEXT PRIMARY KEY);
CREATE TABLE ran_twice (vm_id TEXT PRIMARY KEY, at_ms INTEGER NOT NULL);
CREATE TABLE outbox (position INTEGER PRIMARY KEY AUTOINCREMENT, site TEXT NOT NULL, kind TEXT NOT NULL,
                     value TEXT NOT NULL, sent INTEGER NOT NULL DEFAULT 0);
CREATE INDEX unsent ON outbox (site, position) WHERE sent = 0;
PRAGMA user_version = {_VERSION};
"""

_OBSERVATIONS: dict[str, type[Observation]] = {
    "VmMoved": VmMoved,
    "VmInventory": VmInventory,
    "ClusterInventory": ClusterInventory,
}


def real_clock() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


class Store:
    """An open world file.

    Raises:
        ConfigError: there is no such file, or it is not a world.

    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ConfigError(f"{path}: there is no such world file; create one from a topology file")
        self._lock = threading.Lock()
        self._connection = connect(self.path)
        # Closed with the last reference: worlds are opened in many places, and none of them has to keep count.
        self.close = weakref.finalize(self, self._connection.close)
        try:
            # NORMAL: a power cut of this machine may lose the last moments of a simulation, the file stays whole.
            self._connection.execute("PRAGMA synchronous = NORMAL")
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            self.close()
            raise ConfigError(f"{path}: not a world file ({error})") from None
        if version != _VERSION:
            self.close()
            raise ConfigError(f"{path}: not a world file of this version (has {version}, expected {_VERSION})")

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """All or nothing, and alone: other threads and processes wait. An error takes everything back."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield Transaction(self._connection)
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


class Transaction:
    """What is in the world, read and written inside one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    # The world and its sites

    @property
    def link_up(self) -> bool:
        return bool(self._one("SELECT link_up FROM world"))

    @link_up.setter
    def link_up(self, up: bool) -> None:
        self._db.execute("UPDATE world SET link_up = ?", (up,))

    @property
    def delays(self) -> tuple[int, int]:
        """How long a boot and a shutdown take, in milliseconds."""
        boot, shutdown = self._db.execute("SELECT boot_ms, shutdown_ms FROM world").fetchone()
        return boot, shutdown

    @property
    def points_kept(self) -> int:
        """How many recovery points a replica keeps."""
        return self._one("SELECT points_kept FROM world")

    def sites(self) -> dict[str, bool]:
        """Every site, and whether it has power."""
        return {site: bool(powered) for site, powered in self._db.execute("SELECT site, powered FROM sites")}

    def set_power(self, site: str, powered: bool) -> None:
        self._db.execute("UPDATE sites SET powered = ? WHERE site = ?", (powered, site))

    # Clusters and nodes

    def clusters(self, site: str = "") -> tuple[ClusterInventory, ...]:
        rows = self._db.execute("SELECT value FROM clusters WHERE ? IN ('', site) ORDER BY cluster", (site,))
        return tuple(_load(row[0], ClusterInventory) for row in rows)

    def put_cluster(self, cluster: ClusterInventory) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO clusters VALUES (?, ?, ?)", (cluster.cluster, cluster.site, _dump(cluster))
        )

    def node(self, site: str, name: str) -> tuple[ClusterInventory, Node]:
        """A node and its cluster; an empty `site` looks everywhere.

        Raises:
            LookupFailed: there is none of that name, or more than one.

        """
        found = [(cluster, node) for cluster in self.clusters(site) for node in cluster.nodes if node.name == name]
        if len(found) != 1:
            known = ", ".join(node.name for cluster in self.clusters(site) for node in cluster.nodes)
            problem = "more than one node" if found else "no node"
            raise LookupFailed(f"there is {problem} {name!r}{f' at {site}' if site else ''}; nodes are {known}")
        return found[0]

    def node_up(self, site: str, name: str) -> bool:
        return self.node(site, name)[1].state is not NodeState.DOWN

    # VMs and their ends

    def vm(self, vm_id: str) -> VmInventory:
        """The VM as the world was created with it, at the frequency that it replicates at now.

        Raises:
            LookupFailed: there is no such VM.

        """
        row = self._db.execute("SELECT value FROM vms WHERE vm_id = ?", (vm_id,)).fetchone()
        if row is None:
            raise LookupFailed(f"there is no VM {vm_id!r}")
        return _load(row[0], VmInventory)

    def put_vm(self, vm: VmInventory) -> None:
        self._db.execute("INSERT OR REPLACE INTO vms VALUES (?, ?)", (vm.vm_id, _dump(vm)))

    def ends(self, site: str = "", vm_id: str = "") -> tuple[End, ...]:
        rows = self._db.execute(
            "SELECT value FROM ends WHERE ? IN ('', site) AND ? IN ('', vm_id) ORDER BY vm_id, site", (site, vm_id)
        )
        return tuple(_load(row[0], End) for row in rows)

    def end(self, vm_id: str, site: str) -> End | None:
        row = self._db.execute("SELECT value FROM ends WHERE vm_id = ? AND site = ?", (vm_id, site)).fetchone()
        return None if row is None else _load(row[0], End)

    def peer(self, end: End) -> End | None:
        """The VM's other end."""
        row = self._db.execute("SELECT value FROM ends WHERE vm_id = ? AND site <> ?", (end.vm_id, end.site)).fetchone()
        return None if row is None else _load(row[0], End)

    def put_end(self, end: End) -> None:
        self._db.execute("INSERT OR REPLACE INTO ends VALUES (?, ?, ?)", (end.vm_id, end.site, _dump(end)))

    def sequence(self, end: End, node: str) -> int:
        """The number of the last event of this VM that a node of its site told; 0 for none."""
        row = self._db.execute(
            "SELECT sequence FROM sequences WHERE vm_id = ? AND site = ? AND node = ?", (end.vm_id, end.site, node)
        ).fetchone()
        return 0 if row is None else int(row[0])

    def tell_move(self, end: End, node: str, kind: MoveKind, now_ms: int, storage: str = "") -> None:
        """Note for the site's agent that the VM came to this node, or left it."""
        self._db.execute(
            "INSERT INTO sequences VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET sequence = sequence + 1",
            (end.vm_id, end.site, node),
        )
        self.tell(
            end.site,
            VmMoved(
                end.vm_id,
                end.site,
                node,
                kind,
                now_ms,
                cluster=end.cluster,
                storage=storage,
                sequence=self.sequence(end, node),
                source=node,
            ),
        )

    # Replication settings

    def servers(self, site: str) -> dict[str, ReplicationServer]:
        """What each node of the site accepts."""
        rows = self._db.execute("SELECT node, value FROM servers WHERE site = ?", (site,))
        return {node: _load(value, ReplicationServer) for node, value in rows}

    def put_server(self, site: str, node: str, server: ReplicationServer) -> None:
        self._db.execute("INSERT OR REPLACE INTO servers VALUES (?, ?, ?)", (site, node, _dump(server)))

    def replication(self, vm_id: str) -> VmReplication | None:
        """How the VM was last told to replicate; None where it never was. Its frequency is that of `vm`."""
        row = self._db.execute("SELECT value FROM replications WHERE vm_id = ?", (vm_id,)).fetchone()
        return None if row is None else _load(row[0], VmReplication)

    def put_replication(self, vm_id: str, replication: VmReplication) -> None:
        self._db.execute("INSERT OR REPLACE INTO replications VALUES (?, ?)", (vm_id, _dump(replication)))

    # Leases

    def lease_number(self, site: str, vm_id: str, adapter_id: str) -> tuple[int, int]:
        """The site's number and that of the adapter's lease: the same adapter gets the same lease again."""
        key = (site, vm_id, adapter_id)
        self._db.execute("INSERT OR IGNORE INTO leases (site, vm_id, adapter_id) VALUES (?, ?, ?)", key)
        number = self._one("SELECT number FROM leases WHERE site = ? AND vm_id = ? AND adapter_id = ?", *key)
        return self._one("SELECT number FROM sites WHERE site = ?", site), number

    # Effects and faults

    def took_effect(self, command: StepCommand, site: str) -> bool:
        row = self._db.execute(
            "SELECT 1 FROM effects WHERE vm_id = ? AND run_id = ? AND site = ? AND action = ? AND step = ? "
            "AND attempt = ?",
            (command.vm_id, command.run_id, site, command.action, command.step, command.attempt),
        ).fetchone()
        return row is not None

    def add_effect(self, effect: Effect) -> None:
        self._db.execute(
            "INSERT INTO effects (site, vm_id, action, run_id, step, attempt, value) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (effect.site, effect.vm_id, effect.action, effect.run_id, effect.step, effect.attempt, _dump(effect)),
        )

    def effects(self, vm_id: str = "", run_id: str = "") -> tuple[Effect, ...]:
        rows = self._db.execute(
            "SELECT value FROM effects WHERE ? IN ('', vm_id) AND ? IN ('', run_id) ORDER BY number", (vm_id, run_id)
        )
        return tuple(_load(row[0], Effect) for row in rows)

    def add_fault(self, subject: str, action: str, kind: FaultKind, times: int) -> None:
        self._db.execute(
            "INSERT INTO faults (subject, action, kind, remaining) VALUES (?, ?, ?, ?)", (subject, action, kind, times)
        )

    def take_fault(self, subject: str, action: str) -> FaultKind | None:
        """The fault that is due for this action of the VM, or of the node (`site/node`), used up by one."""
        row = self._db.execute(
            "SELECT number, kind FROM faults WHERE subject = ? AND action = ? AND remaining > 0 "
            "ORDER BY number LIMIT 1",
            (subject, action),
        ).fetchone()
        if row is None:
            return None
        self._db.execute("UPDATE faults SET remaining = remaining - 1 WHERE number = ?", (row[0],))
        return FaultKind(row[1])

    def silenced(self) -> frozenset[str]:
        """The VMs whose replication cycles come to nothing, though their sites reach each other."""
        return frozenset(vm_id for (vm_id,) in self._db.execute("SELECT vm_id FROM silenced"))

    def set_silenced(self, vm_id: str, silent: bool) -> None:
        change = "INSERT OR IGNORE INTO silenced VALUES (?)" if silent else "DELETE FROM silenced WHERE vm_id = ?"
        self._db.execute(change, (vm_id,))

    def closed_ports(self, vm_id: str = "") -> frozenset[tuple[str, int]]:
        """VMs, all or the one, and the TCP ports at which their guests do not listen."""
        return frozenset(self._db.execute("SELECT vm_id, port FROM closed_ports WHERE ? IN ('', vm_id)", (vm_id,)))

    def set_port(self, vm_id: str, port: int, *, closed: bool) -> None:
        change = "INSERT OR IGNORE INTO closed_ports VALUES (?, ?)"
        if not closed:
            change = "DELETE FROM closed_ports WHERE vm_id = ? AND port = ?"
        self._db.execute(change, (vm_id, port))

    # What must never be

    def ran_twice(self) -> tuple[str, ...]:
        """The VMs that at some time ran at both their ends."""
        return tuple(vm_id for (vm_id,) in self._db.execute("SELECT vm_id FROM ran_twice ORDER BY vm_id"))

    def note_ran_twice(self, vm_id: str, now_ms: int) -> None:
        self._db.execute("INSERT OR IGNORE INTO ran_twice VALUES (?, ?)", (vm_id, now_ms))

    # The outbox

    def tell(self, site: str, value: Observation) -> None:
        self._db.execute(
            "INSERT INTO outbox (site, kind, value) VALUES (?, ?, ?)", (site, type(value).__name__, _dump(value))
        )

    def untold(self, site: str, limit: int) -> tuple[Observed, ...]:
        rows = self._db.execute(
            "SELECT position, kind, value FROM outbox WHERE site = ? AND sent = 0 ORDER BY position LIMIT ?",
            (site, limit),
        )
        return tuple(Observed(position, _load(value, _OBSERVATIONS[kind])) for position, kind, value in rows)

    def told(self, site: str, position: int) -> None:
        self._db.execute("UPDATE outbox SET sent = 1 WHERE site = ? AND sent = 0 AND position <= ?", (site, position))

    def _one(self, query: str, *parameters: object) -> int:
        return int(self._db.execute(query, parameters).fetchone()[0])


def connect(path: Path) -> sqlite3.Connection:
    """Open or create the file. Transactions are ours to begin and end."""
    return sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)


def _dump(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _load(text: str, kind: type[_Value]) -> _Value:
    return msgspec.json.decode(text, type=kind)
