"""Every mistake of a topology file is named with its line, once, without others that merely follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from failover_orch.errors import Mistake, TopologyError
from failover_orch.topology import load

HERE = Path(__file__).parent
SMALL = (HERE / "small.yaml").read_text(encoding="utf-8")
WHOLE = (HERE / "whole.yaml").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Edit:
    """An edit of a good file, and the mistake that it makes."""

    base: str
    old: str
    new: str
    line: int
    field: str
    words: str


def read_edits(mistakes: str = "mistakes.txt", base: str = SMALL) -> list[Edit]:
    edits = []
    for block in (HERE / mistakes).read_text(encoding="utf-8").split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        if lines:
            old = "".join(f"{line[2:]}\n" for line in lines if line[0] == "-")
            new = [line for line in lines if line[0] in "+>"]
            (marked,) = (index for index, line in enumerate(new) if line[0] == ">")
            field, _, words = lines[-1].removeprefix("= ").partition(": ")
            assert base.count(old) == 1, f"these lines stand {base.count(old)} times in the file:\n{old}"
            line = base[: base.index(old)].count("\n") + 1 + marked
            edits.append(Edit(base, old, "".join(f"{line[2:]}\n" for line in new), line, field, words))
    return edits


def mistakes_of(content: str | bytes, path: Path) -> tuple[Mistake, ...]:
    file = path / "topology.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TopologyError) as raised:
        load(file)
    assert raised.value.path == str(file)
    assert str(raised.value).startswith(f"{file}:line ")
    return raised.value.mistakes


@pytest.mark.parametrize(
    "edit", read_edits() + read_edits("mistakes_in_plans.txt", WHOLE), ids=lambda edit: f"{edit.field}: {edit.words}"
)
def test_a_mistake_is_named_with_its_line_and_nothing_else_is(edit: Edit, tmp_path: Path) -> None:
    (mistake,) = mistakes_of(edit.base.replace(edit.old, edit.new), tmp_path)
    assert (mistake.line, mistake.field) == (edit.line, edit.field)
    assert edit.words in mistake.message


def test_all_mistakes_are_named_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = SMALL
    chosen = [
        edit for edit in read_edits() if edit.field.split(".")[-1] in ("broker", "cpus", "state", "dns", "frequency_s")
    ]
    expected = set()
    for edit in chosen:
        if text.count(edit.old) == 1:
            text = text.replace(edit.old, edit.new)
            expected.add(edit.field)
    found = mistakes_of(text, tmp_path)
    assert len(expected) >= 5
    assert {mistake.field for mistake in found} == expected
    assert [mistake.line for mistake in found] == sorted(mistake.line for mistake in found)


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("", 1, "is empty; expected sites"),
        ("# only a comment\n", 1, "is empty; expected sites"),
        ("- a\n- b\n", 1, "is a list; expected a mapping with sites,"),
        ("sites:\n  - name: a\n bad: [\n", 3, "cannot be read: "),
        ("sites: [\n", 2, "cannot be read: "),
        ("sites: *nowhere\n", 1, "undefined alias"),
        ("sites: []\n---\nsites: []\n", 2, "expected a single document"),
        ("sites:\n  - name: \x00\n", 2, r"the character '\x00' is not allowed here"),
        ('sites:\n  - name: "\\UFFFFFFFF"\n', 1, "number too large"),
        ("[" * 5000, 1, "nested too deeply"),
        (b"sites:\n  - name: caf\xe9\n", 2, "is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_topology_at_all(content: str | bytes, line: int, words: str, tmp_path: Path) -> None:
    (mistake,) = mistakes_of(content, tmp_path)
    assert mistake.line == line
    assert words in mistake.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"nowhere\.yaml:line 1: file: cannot be read: No such file") as raised:
        load(tmp_path / "nowhere.yaml")
    assert len(raised.value.mistakes) == 1


def test_sites_and_clusters_are_required(tmp_path: Path) -> None:
    found = mistakes_of("vms: []\n", tmp_path)
    assert [mistake.field for mistake in found] == ["clusters", "sites"]


def test_settings_of_a_vm_that_is_not_replicated_are_refused(tmp_path: Path) -> None:
    text = SMALL.replace("  - vm: web\n", "  - vm: build\n").replace(
        "nic-0\n        network: west", "x\n        network: west"
    )
    assert {mistake.message[-4:] for mistake in mistakes_of(text, tmp_path) if "build" in mistake.field} == {
        "(A1)",
        "(A2)",
    }


def test_a_section_misspelt_is_one_mistake_and_not_one_for_each_reference(tmp_path: Path) -> None:
    for name in ("networks", "clusters", "vms"):
        found = mistakes_of(SMALL.replace(f"\n{name}:\n", f"\n{name}x:\n"), tmp_path)
        assert {mistake.field for mistake in found} == {f"{name}x"} | ({"clusters"} if name == "clusters" else set())


def test_a_name_that_cannot_be_read_is_not_held_against_those_who_refer_to_it(tmp_path: Path) -> None:
    found = mistakes_of(SMALL.replace("  - name: west\n", "  - nam: west\n"), tmp_path)
    assert {mistake.field for mistake in found} == {"sites[1].name", "sites[1].nam"}


def test_an_adapter_that_cannot_be_read_is_not_held_against_its_ip_plan(tmp_path: Path) -> None:
    text = SMALL.replace("      - {id: nic-0, mac", "      - {di: nic-0, mac")
    assert {mistake.field for mistake in mistakes_of(text, tmp_path)} == {
        "vms[web].adapters[0].id",
        "vms[web].adapters[0].di",
    }


def test_replicas_go_where_they_are_accepted(tmp_path: Path) -> None:
    text = SMALL.replace("WEST-BROKER", "WEST-BROKER\n    accepts_replicas: false")
    found = {mistake.field: mistake.message for mistake in mistakes_of(text, tmp_path)}
    assert found == {
        "vms[db].replication.site": "no cluster at 'west' accepts replicas",
        "vms[web].replication.node": "west-cluster does not accept replicas (accepts_replicas in line 21 ff.)",
    }


def test_a_network_without_a_family_has_no_addresses_of_it(tmp_path: Path) -> None:
    text = SMALL.replace('    ipv6: {subnets: ["2001:db8:2::/64"]}\n', "")
    (mistake,) = mistakes_of(text, tmp_path)
    assert (mistake.line, mistake.field) == (72, "ip_plans[db].adapters[nic-0].ipv6.addresses")
    assert mistake.message == "2001:db8:2::11 is an IPv6 address, but network west-lan has no IPv6 subnet"


def test_on_a_stretched_network_a_vm_keeps_its_own_address_and_takes_no_other(tmp_path: Path) -> None:
    stretched = SMALL.replace("subnets: [10.2.0.0/24]", "subnets: [10.2.0.0/24, 10.1.0.0/24]")
    own = stretched.replace("{dhcp: true}", "{addresses: [10.1.0.12/24]}")
    (tmp_path / "own.yaml").write_text(own, encoding="utf-8")
    assert load(tmp_path / "own.yaml").warnings == ()
    (mistake,) = mistakes_of(stretched.replace("{dhcp: true}", "{addresses: [10.1.0.11/24]}"), tmp_path)
    assert mistake.field == "ip_plans[web].adapters[nic-0].ipv4.addresses"
    assert mistake.message == "10.1.0.11 is taken: line 40 gives it to db (nic-0)"


def test_a_number_that_python_itself_refuses(tmp_path: Path) -> None:
    (mistake,) = mistakes_of(SMALL.replace("cpus: 4\n", f"cpus: {'9' * 5000}\n"), tmp_path)
    assert mistake.field == "vms[db].cpus"
