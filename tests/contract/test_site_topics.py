"""A site's own topics: what they are called, and that nobody speaks there for another site."""

from __future__ import annotations

from dataclasses import replace

import pytest
from contract_values import MOVED

from failover_orch.contract import (
    PER_SITE,
    SOURCES,
    TOPICS,
    Codec,
    User,
    base_topic,
    records_on,
    site_of_topic,
    site_topic,
    sites_among,
    sources_of,
    speaks_for,
    topic_of,
    with_sites,
)
from failover_orch.domain import (
    ClusterInventory,
    Evidence,
    Guest,
    Replication,
    ReplicationHealth,
    ReplicationMode,
    ReplicationReport,
    ReplicationState,
    StepOutcome,
    StepResult,
    Verdict,
    VmInventory,
)
from failover_orch.domain.replication_settings import SettingsObserved
from failover_orch.errors import UndecodableRecord

CODEC = Codec()
SAID_BY_DR = (
    MOVED,
    ReplicationReport(
        "vm-1", "dr", "d1", ReplicationMode.REPLICA, ReplicationState.REPLICATING, ReplicationHealth.NORMAL, 1
    ),
    VmInventory("vm-1", "vm-1", (), Guest("rhel-9"), Replication(ReplicationState.REPLICATING, "dr", "primary")),
    ClusterInventory("dr-c", "dr", "broker", ()),
    SettingsObserved("dr", "dr-c", "d1", 1),
    Evidence("site-agent/dr", "dr", "primary", Verdict.UNREACHABLE, 1),
    StepResult("run-1", "P1", 1, "vm-1", "dr", "d1", 1, StepOutcome.DONE, "", 1),
)


def test_every_record_of_a_sites_topics_says_which_site_it_comes_from() -> None:
    """One that did not could be written there by the agents of any site."""
    on_them = {record for topic in PER_SITE for record in records_on(topic)}
    assert on_them == {type(value) for value in SAID_BY_DR}
    assert {speaks_for(value) for value in SAID_BY_DR} == {"dr"}


def test_site_agents_write_to_their_own_topics_and_dead_letters_alone() -> None:
    assert [topic.name for topic in TOPICS if User.SITE_AGENT in topic.writers] == ["dead-letters"]
    assert all(User.VIEWER not in topic.writers for topic in TOPICS)


@pytest.mark.parametrize("value", SAID_BY_DR, ids=lambda value: type(value).__name__)
def test_a_record_for_another_site_is_refused_on_a_sites_topic_and_taken_on_the_common_one(value: object) -> None:
    common, own = topic_of(value), topic_of(value, "dr")
    assert (base_topic(own), site_of_topic(own)) == (common, "dr")
    encoded = CODEC.encode(value)
    assert CODEC.decode_from(common, encoded) == CODEC.decode_from(own, encoded) == value
    with pytest.raises(UndecodableRecord, match="speaks for site 'dr': the agents of a site speak"):
        CODEC.decode_from(site_topic(common, "primary"), encoded)


def test_what_a_site_makes_of_another_is_its_own_word() -> None:
    forged = CODEC.encode(replace(SAID_BY_DR[5], place="witness"))
    with pytest.raises(UndecodableRecord, match="speaks for site 'witness'"):
        CODEC.decode_from("evidence.dr", forged)


def test_other_records_have_no_topic_of_a_sites_own() -> None:
    assert topic_of(replace(MOVED, site="primary"), "dr") == "vm-moved.dr"  # whose agent it is, not what it says
    assert base_topic("routing-updates.dr") == "routing-updates.dr"
    assert (site_of_topic("step-commands.dr"), site_of_topic("vm-moved"), site_of_topic("vm-moved.")) == ("", "", "")
    assert records_on("routing-updates.dr") == ()


def test_a_site_counts_once_all_its_topics_are_there() -> None:
    """Before that a worker would read some of them and not the others."""
    topics = {*SOURCES, *(site_topic(topic, "dr") for topic in PER_SITE), site_topic(PER_SITE[0], "primary")}
    assert sites_among(topics) == ("dr",)
    assert sites_among(topics | {site_topic(topic, "a.b") for topic in PER_SITE}) == ("a.b", "dr")


def test_sources_are_the_common_topics_and_the_sites_own_beside_them() -> None:
    sources = sources_of(("dr", "primary"))
    assert [source for source in sources if base_topic(source) == "step-results"] == [
        "step-results",
        "step-results.dr",
        "step-results.primary",
    ]
    assert [base_topic(source) for source in sources] == sorted(map(base_topic, sources), key=SOURCES.index)
    assert sources_of(()) == SOURCES


def test_a_reader_of_a_topic_reads_every_sites_own_of_its_kind() -> None:
    there = ["inventory.dr", "inventory", "vm-moved.dr", "inventory.primary", "inventory-of-others"]
    assert with_sites("inventory", there) == ["inventory", "inventory.dr", "inventory.primary"]
    assert with_sites("alerts", there) == ["alerts"]
