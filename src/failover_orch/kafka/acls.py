"""Who may do what on a Kafka that asks: the least that each user needs, as one pure function of the topic table."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from failover_orch.config import Settings
from failover_orch.contract import STEP_COMMANDS, TOPICS, User, site_topic, state_topic, step_commands_topic

__all__ = ["Acl", "Operation", "Pattern", "Permission", "Resource", "UserNames", "wanted_acls"]


class Resource(IntEnum):
    """What an ACL is about. The numbers of this and the following are those of Kafka's protocol."""

    TOPIC = 2
    GROUP = 3
    CLUSTER = 4
    TRANSACTIONAL_ID = 5


class Pattern(IntEnum):
    """How the resource is named: by its name, or by how its name begins."""

    LITERAL = 3
    PREFIXED = 4


class Operation(IntEnum):
    """What is allowed. READ and WRITE allow DESCRIBE too."""

    ALL = 2
    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    ALTER = 7
    DESCRIBE = 8
    CLUSTER_ACTION = 9
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11
    IDEMPOTENT_WRITE = 12


class Permission(IntEnum):
    """Whether it is allowed. What nothing allows is forbidden; a DENY goes over every ALLOW."""

    DENY = 2
    ALLOW = 3


ANY_HOST = "*"
CLUSTER_NAME = "kafka-cluster"


@dataclass(frozen=True, slots=True, order=True)
class Acl:
    """One access control list entry. `principal` is `User:` and the user's name."""

    principal: str
    resource: Resource
    name: str
    operation: Operation
    pattern: Pattern = Pattern.LITERAL
    permission: Permission = Permission.ALLOW
    host: str = ANY_HOST

    @property
    def command(self) -> str:
        """What makes it with Kafka's own tool."""
        allow = "--allow" if self.permission is Permission.ALLOW else "--deny"
        option = {Resource.TRANSACTIONAL_ID: "--transactional-id", Resource.CLUSTER: "--cluster"}.get(
            self.resource, f"--{self.resource.name.lower()}"
        )
        named = "" if self.resource is Resource.CLUSTER else f" {shlex.quote(self.name)}"
        operation = self.operation.name.title().replace("_", "")
        return (
            f"kafka-acls.sh --add {allow}-principal {shlex.quote(self.principal)} --operation {operation} "
            f"{option}{named} --resource-pattern-type {self.pattern.name.lower()}"
        )

    def __str__(self) -> str:
        verb = "may" if self.permission is Permission.ALLOW else "must not"
        named = f"{self.name}*" if self.pattern is Pattern.PREFIXED else self.name
        where = "" if self.host == ANY_HOST else f" from {self.host}"
        kind = self.resource.name.lower().replace("_", " ")
        return f"{self.principal} {verb} {self.operation.name} {kind} {named}{where}"


@dataclass(frozen=True, slots=True)
class UserNames:
    """What the users are called on one Kafka: by a common prefix, or one by one.

    A site's agents are called as SITE_AGENT is, and `-<site>`.
    """

    prefix: str = ""
    named: Mapping[User, str] = field(default_factory=dict)

    def of(self, user: User, site: str = "") -> str:
        """The name of a user on Kafka; of a site agent, that of its site's."""
        name = self.named.get(user, f"{self.prefix}{user}")
        return f"{name}-{site}" if user is User.SITE_AGENT else name

    def all(self, sites: Iterable[str]) -> list[str]:
        """The names of all users."""
        people = [self.of(user) for user in User if user is not User.SITE_AGENT]
        return [*people, *(self.of(User.SITE_AGENT, site) for site in sites)]


_LOOKING = (User.SERVICE, User.OPERATOR, User.ADMINISTRATOR, User.VIEWER)
"""Who reads all that there is to read: read models, journals, the tasks' state for `explain`."""


def wanted_acls(settings: Settings, sites: Iterable[str], users: UserNames) -> list[Acl]:
    """Every ACL of an installation with these sites, in an order of their own."""
    sites = list(sites)
    return sorted(
        {
            *_of_topics(settings, users),
            *(acl for site in sites for acl in _of_a_site(settings, site, users)),
            *_of_workers(settings, users),
            *_of_lookers(settings, users),
        }
    )


def _allowed(
    user: str, operation: Operation, name: str, resource: Resource = Resource.TOPIC, *, beginning: bool = False
) -> Acl:
    pattern = Pattern.PREFIXED if beginning else Pattern.LITERAL
    return Acl(f"User:{user}", resource, name, operation, pattern)


def _of_topics(settings: Settings, users: UserNames) -> Iterator[Acl]:
    """Writing to the common topics, as the topic table says."""
    for topic in TOPICS:
        for user in topic.writers:
            if user is not User.SITE_AGENT:
                yield _allowed(users.of(user), Operation.WRITE, settings.names.of(topic.name))


def _of_a_site(settings: Settings, site: str, users: UserNames) -> Iterator[Acl]:
    """A site's agents: their own site's topics, and of the others what they need to do their work."""
    agent, names = users.of(User.SITE_AGENT, site), settings.names
    for topic in TOPICS:
        if topic.per_site:
            yield _allowed(agent, Operation.WRITE, names.of(site_topic(topic.name, site)))
        elif User.SITE_AGENT in topic.writers:
            yield _allowed(agent, Operation.WRITE, names.of(topic.name))
    yield _allowed(agent, Operation.READ, names.of(step_commands_topic(site)))
    # Agents of one site see in their answers what another of them has begun.
    yield _allowed(agent, Operation.READ, names.of(site_topic("step-results", site)))
    yield _allowed(agent, Operation.READ, names.of("routing-updates"))
    yield _allowed(agent, Operation.READ, f"{settings.app_id}-site-{site}", Resource.GROUP)


def _of_workers(settings: Settings, users: UserNames) -> Iterator[Acl]:
    worker, names = users.of(User.WORKER), settings.names
    for topic in TOPICS:
        if topic.source:
            yield from _reading(worker, settings, topic.name, per_site=topic.per_site)
    yield _allowed(worker, Operation.WRITE, names.of(f"{STEP_COMMANDS.name}."), beginning=True)
    for operation in (Operation.READ, Operation.WRITE):
        yield _allowed(worker, operation, names.of(state_topic(settings.app_id)))
    yield _allowed(worker, Operation.READ, settings.group, Resource.GROUP)
    yield _allowed(worker, Operation.WRITE, f"{settings.group}-", Resource.TRANSACTIONAL_ID, beginning=True)


def _of_lookers(settings: Settings, users: UserNames) -> Iterator[Acl]:
    for user in map(users.of, _LOOKING):
        for topic in TOPICS:
            yield from _reading(user, settings, topic.name, per_site=topic.per_site)
        yield _allowed(user, Operation.READ, settings.names.of(state_topic(settings.app_id)))
    # What `topics check` asks for.
    administrator = users.of(User.ADMINISTRATOR)
    yield _allowed(administrator, Operation.DESCRIBE, CLUSTER_NAME, Resource.CLUSTER)
    for topic in (*TOPICS, STEP_COMMANDS):
        name = settings.names.of(topic.name)
        if topic is not STEP_COMMANDS:
            yield _allowed(administrator, Operation.DESCRIBE_CONFIGS, name)
        if topic is STEP_COMMANDS or topic.per_site:
            yield _allowed(administrator, Operation.DESCRIBE_CONFIGS, f"{name}.", beginning=True)
        if topic is STEP_COMMANDS:
            yield _allowed(administrator, Operation.DESCRIBE, f"{name}.", beginning=True)
    yield _allowed(administrator, Operation.DESCRIBE_CONFIGS, settings.names.of(state_topic(settings.app_id)))


def _reading(user: str, settings: Settings, topic: str, *, per_site: bool) -> Iterator[Acl]:
    """Reading a topic and, by how their names begin, every site's own of its kind: sites come later too."""
    name = settings.names.of(topic)
    yield _allowed(user, Operation.READ, name)
    if per_site:
        yield _allowed(user, Operation.READ, f"{name}.", beginning=True)
