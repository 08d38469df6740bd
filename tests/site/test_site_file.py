"""Site files: what they come to, and that every mistake is named with its line, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from failover_orch.errors import Mistake, SiteFileError
from failover_orch.fencing import IpmiFence, LibvirtFence, Login, Pace, PersonFence, Privilege, RedfishFence
from failover_orch.hypervisors import hyperv
from failover_orch.hypervisors.libvirt import (
    BrokerAccess,
    Injection,
    LibvirtNode,
    LibvirtSite,
    PeerSite,
    ReplicatedVm,
)
from failover_orch.site import AgentOptions, SimulatedSite, SiteFile, load_site_file
from failover_orch.site.site_file_values import is_loopback

EXAMPLES = Path(__file__).parents[2] / "topologies" / "sites"
LIBVIRT, HYPERV, SIMULATED = (
    (EXAMPLES / f"dr-{kind}.yaml").read_text(encoding="utf-8") for kind in ("libvirt", "hyperv", "simulated")
)
SECRETS = ("replication.key", "dr.key", "bmc.secret", "hyperv.secret", "primary.secret")
CERTIFICATES = ("dr.crt", "sites.crt", "bmc-ca.crt", "dr-ca.crt")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with all that the examples refer to."""
    for name in SECRETS:
        (tmp_path / name).write_text(f"secret of {name}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o600)
    for name in CERTIFICATES:
        (tmp_path / name).touch()
    (tmp_path / "scripts").mkdir()
    return tmp_path


def load(text: str, directory: Path) -> SiteFile:
    file = directory / "site.yaml"
    file.write_text(text, encoding="utf-8")
    return load_site_file(file)


def mistakes_of(text: str, directory: Path) -> tuple[Mistake, ...]:
    with pytest.raises(SiteFileError) as raised:
        load(text, directory)
    assert str(raised.value).startswith(f"{directory}/site.yaml:line ")
    return raised.value.mistakes


def test_a_site_of_libvirt_nodes(directory: Path) -> None:
    file = load(LIBVIRT, directory)
    storage = Path("/var/lib/libvirt/replicas")
    assert (file.site, file.agent) == ("dr", AgentOptions(urls=("https://hooks.example/dr",)))
    assert file.hypervisor == LibvirtSite(
        site="dr",
        cluster="dr-cluster",
        nodes=(
            LibvirtNode("d1", "qemu+tcp://10.99.2.2/system", storage, ("ssh", "root@d1")),
            LibvirtNode("d2", "qemu+tcp://10.99.2.3/system", storage, ("ssh", "root@d2")),
        ),
        broker="DR-BROKER",
        broker_url="http://10.99.0.1:8080",
        networks={"lan": "br0"},
        test_networks={"isolated-dr": "br-test"},
        listen="10.99.2.1:8440",
        key="secret of replication.key",
        tls_certificate=directory / "dr.crt",
        tls_key=directory / "dr.key",
        tls_ca=directory / "sites.crt",
        peers=(PeerSite("primary", {"p1": "https://10.99.1.1:8440", "p2": "https://10.99.1.1:8440"}),),
        replicate=(
            ReplicatedVm("wiki", "primary", "wiki-1", "p1", 30, 4, 4, "debian-12"),
            ReplicatedVm("mail", "primary"),
        ),
        inject=Injection.FW_CFG,
        answers="ping",
    )
    assert "secret of" not in repr(file), "secrets have no place in logs"


def test_without_tls_where_nobody_else_reads(directory: Path) -> None:
    tls = "  tls: {certificate: dr.crt, key: dr.key, ca: sites.crt}\n"
    plain = LIBVIRT.replace(tls, "").replace("https://10.99.1.1", "http://10.99.1.1")
    assert len(mistakes_of(plain, directory)) == 3
    load(plain.replace("  inject:", "  plaintext: true\n  inject:"), directory)
    for here in ("127.0.0.1", "localhost"):
        load(plain.replace("10.99.1.1:8440", f"{here}:8440").replace("10.99.2.1:8440", f"{here}:8440"), directory)
    assert is_loopback("[::1]")
    assert not is_loopback("localhost.example")


def test_a_key_that_could_be_guessed_is_refused(directory: Path) -> None:
    (directory / "replication.key").write_text("secret\n")
    (mistake,) = mistakes_of(LIBVIRT, directory)
    assert str(mistake).endswith("key_file: holds a key of 6 characters; expected 16 or more, by chance")


def test_the_fences_of_a_site(directory: Path) -> None:
    password = directory / "bmc.secret"
    assert load(LIBVIRT, directory).fences == (
        IpmiFence("primary", "p1", "10.0.0.9", "failover", password, 623, Privilege.OPERATOR),
        RedfishFence(
            "primary",
            "p2",
            "https://10.0.0.10",
            "failover",
            password,
            "437XR1138R2",
            directory / "bmc-ca.crt",
            Login.SESSION,
            Pace(deadline_s=60),
        ),
        LibvirtFence("primary", "p2", "qemu+tcp://10.99.1.3/system"),
        PersonFence("primary", "p2"),
    )


def test_a_site_of_hyper_v_nodes(directory: Path) -> None:
    login = hyperv.Login("DR\\svc-failover", "secret of hyperv.secret")
    primary = hyperv.Login("PRIMARY\\svc-failover", "secret of primary.secret")
    ca_file = directory / "dr-ca.crt"
    file = load(HYPERV, directory)
    assert file.agent == AgentOptions()
    assert file.hypervisor == hyperv.HyperVSite(
        site="dr",
        cluster="DR-CLUSTER",
        nodes=(
            hyperv.HyperVNode("HV-D1", login, "hv-d1.dr.example", ca_file=ca_file),
            hyperv.HyperVNode("HV-D2", login, "hv-d2.dr.example", 5986, ca_file=ca_file),
        ),
        broker="DR-BROKER",
        peers=(
            hyperv.HyperVPeer(
                "primary",
                "PRIMARY-CLUSTER",
                (hyperv.HyperVNode("HV-P1", primary, "hv-p1.primary.example", ca_file=ca_file),),
                "PRIMARY-BROKER",
                443,
                hyperv.ReplicationAuthentication.CERTIFICATE,
                "9F2C6E1B0D7A4F358C1E2B3A4D5F60718293A4B5",
            ),
        ),
        switches={"*": "LAN", "erp-db/Backup": "Backup"},
        test_networks={"isolated-dr": "Isolated"},
        guests={"legacy-1": "freebsd-14"},
        poll_s=5,
        call_timeout_s=60,
        sessions=2,
    )
    assert "secret of" not in repr(file)


def test_a_site_of_a_simulated_world(directory: Path) -> None:
    file = load_site_file(EXAMPLES / "dr-simulated.yaml")
    world, topology = EXAMPLES / "world.db", EXAMPLES / "../two-sites.yaml"
    assert file == SiteFile("dr", AgentOptions(), SimulatedSite("dr", world, topology))


def test_how_an_agent_works(directory: Path) -> None:
    text = SIMULATED.replace("../two-sites.yaml", "site.yaml").replace(
        "{per_node: 4, evidence_every: 5}",
        "{per_node: 2, per_site: 3, report_every: 0.25, evidence_every: 1.5, scripts: [scripts]}",
    )
    assert load(text, directory).agent == AgentOptions(
        per_node=2, per_site=3, report_every=0.25, evidence_every=1.5, scripts=(directory / "scripts",)
    )


MISTAKES = [
    ("site: dr\n", "site: d r\n", "site", "is 'd r'; expected up to 80 letters"),
    ("site: dr\n", "", "site", "is missing"),
    ("\nagent:\n", "\nagents:\n", "agents", "did you mean 'agent'?"),
    ("per_node: 4 ", "per_node: 0 ", "agent.per_node", "is '0'; expected a whole number from 1 to 1000"),
    ("report_every: 0 ", "report_every: 1e3 ", "agent.report_every", "is '1e3'; expected a number from 0 to 86400"),
    ("scripts: []", "scripts: [nowhere]", "agent.scripts", "nowhere' is no directory that is there"),
    ("[https://hooks.example/dr]", "[hooks.example]", "agent.allow_urls", "expected scheme, host and path"),
    (
        "kind: libvirt",
        "kind: libvrt",
        "hypervisor.kind",
        "is 'libvrt'; expected one of libvirt, hyperv, simulated; did",
    ),
    ("  kind: libvirt\n", "", "hypervisor.kind", "is missing; expected one of libvirt, hyperv, simulated"),
    ("  cluster: dr-cluster\n", "", "hypervisor.cluster", "is missing"),
    ("broker_url: http:", "broker_url: ftp:", "hypervisor.broker_url", "expected a URL such as http://10.0.0.1"),
    (
        "  # broker_access: {token_file: broker.token,",
        "  broker_access: {token_file: replication.key} # ",
        "hypervisor.broker_access.token_file",
        "would go over the network in the clear; take https in broker_url",
    ),
    (
        "  # broker_access: {token_file: broker.token,",
        "  broker_access: {certificate: dr.crt} # ",
        "hypervisor.broker_access.key",
        "is missing; expected a path",
    ),
    ("name: d1\n", "name: d2\n", "hypervisor.nodes[d2].name", "has the node 'd2' already"),
    ("uri: qemu+tcp://10.99.2.2/system", "uri: d1", "hypervisor.nodes[d1].uri", "is 'd1'; expected a libvirt URI"),
    (
        "storage: /var/lib/libvirt/replicas\n",
        "storage: replicas\n",
        "hypervisor.nodes[d1].storage",
        "the absolute path",
    ),
    ("run: [ssh, root@d1]", "run: ssh", "hypervisor.nodes[d1].run", "is a text; expected a command's words"),
    ("{lan: br0}", "{l/n: br0}", "hypervisor.networks.l/n", "cannot stand here as a name"),
    ("listen: 10.99.2.1:8440", "listen: 10.99.2.1", "hypervisor.listen", "expected address:port, such as"),
    ("listen: 10.99.2.1:8440", "listen: 10.99.2.1:84400", "hypervisor.listen", "expected a port of at most 65535"),
    ("key_file: replication.key", "key_file: other.key", "hypervisor.key_file", "other.key cannot be read: No such"),
    ("  key_file: replication.key", "", "hypervisor.key_file", "is missing; expected a path"),
    (
        "  tls: {certificate: dr.crt, key: dr.key, ca: sites.crt}\n",
        "",
        "hypervisor.listen",
        "give tls, or set hypervisor",
    ),
    ('{p1: "https:', '{p1: "http:', "hypervisor.peers.primary.nodes.p1", "would have the sites' key"),
    ("certificate: dr.crt", "certificate: d.crt", "hypervisor.tls.certificate", "d.crt' is not there"),
    ("inject: fw_cfg", "inject: nocloudy", "hypervisor.inject", "did you mean 'nocloud'?"),
    ("answers: ping", "answers: tcp", "hypervisor.answers", "is 'tcp'; expected ping, tcp:PORT or none"),
    ('{p1: "https:', '{p1: "', "hypervisor.peers.primary.nodes.p1", "expected a URL such as http://10.0.0.1"),
    ("    primary:\n", "    dr:\n", "hypervisor.peers.dr", "is this agent's own site; peers are the others"),
    ("{vm: mail, to: primary}", "{vm: mail, to: west}", "hypervisor.replicate[mail].to", "there is no site 'west'"),
    ("{vm: mail, to", "{vm: wiki, to", "hypervisor.replicate[wiki].vm", "has the VM 'wiki' already"),
    (
        "to: primary, node: p1",
        "to: primary, node: p3",
        "hypervisor.replicate[wiki].node",
        "no node 'p3' in hypervisor.pe",
    ),
    ("every: 30,", "every: 0,", "hypervisor.replicate[wiki].every", "expected a number from 0.1 to 86400"),
    ("points: 4", "points: 25", "hypervisor.replicate[wiki].points", "from 0 to 24"),
    ("agent: ipmi", "agent: ipmy", "fences[p1].agent", "did you mean 'ipmi'?"),
    ("agent: ipmi", "agent: ipmi, uri: x", "fences[p1].uri", "is not a key of a fence of agent ipmi"),
    ("agent: ipmi", "agent: ipmi, port: 0", "fences[p1].port", "from 1 to 65535"),
    (", host: 10.0.0.9", "", "fences[p1].host", "is missing; expected the controller's host name or address"),
    ("failover, password_file: bmc.secret}", "failover}", "fences[p1].password_file", "is missing; expected a path"),
    ("url: https://10.0.0.10\n", "url: http://10.0.0.10\n", "fences[p2].url", "expected a URL such as https://"),
    ("ca_file: bmc-ca.crt", "ca_file: bmc.crt", "fences[p2].ca_file", "bmc.crt' is not there"),
    ("  timeout: 60 ", "  timeout: 0 ", "fences[p2].timeout", "expected a number from 1 to 600"),
    ("- {site: primary, node: p1, a", "- {site: dr, node: p1, a", "fences[p1].site", "is this agent's own site"),
    ("- {site: primary, node: p1, a", "- {site: primari, node: p1, a", "fences[p1].site", "did you mean 'primary'?"),
    ("- {site: primary, node: p1, a", "- {site: primary, node: x9, a", "fences[x9].node", "known: p1, p2"),
]


def test_who_we_are_at_the_broker(directory: Path) -> None:
    text = LIBVIRT.replace("broker_url: http:", "broker_url: https:").replace(
        "  # broker_access: {token_file: broker.token, ca: broker-ca.crt}",
        "  broker_access: {token_file: replication.key, ca: sites.crt, certificate: dr.crt, key: dr.key}",
    )
    hypervisor = load(text, directory).hypervisor
    assert isinstance(hypervisor, LibvirtSite)
    assert hypervisor.broker_access == BrokerAccess(
        "secret of replication.key", directory / "sites.crt", directory / "dr.crt", directory / "dr.key"
    )


@pytest.mark.parametrize(
    ("old", "new", "field", "words"), MISTAKES, ids=[f"{field}: {words}" for _, _, field, words in MISTAKES]
)
def test_a_mistake_is_named_with_its_line_and_nothing_else_is(
    old: str, new: str, field: str, words: str, directory: Path
) -> None:
    assert LIBVIRT.count(old) == 1, LIBVIRT.count(old)
    text = LIBVIRT.replace(old, new)
    (mistake,) = mistakes_of(text, directory)
    assert mistake.field == field or mistake.field.startswith(f"{field}[")
    assert words in mistake.message
    changed = LIBVIRT[: LIBVIRT.index(old)].count("\n") + 1 + old[:1].count("\n")
    if new and "is missing" not in words and "already" not in words:
        assert mistake.line == changed


HYPERV_MISTAKES = [
    ("    user: DR\\svc-failover\n", "", "hypervisor.login.user", "is missing"),
    ("hyperv.secret", "dr-ca.crt", "hypervisor.login.password_file", "open to everybody: chmod 600"),
    ("negotiate ", "digest ", "hypervisor.login.authentication", "expected one of negotiate, kerberos, ntlm, basic"),
    ("Certificate ", "certificate ", "hypervisor.peers.primary.authentication", "did you mean 'Certificate'?"),
    ("port: 5986}", "port: 5986, tls: no}", "hypervisor.nodes[HV-D2].tls", "expected true or false"),
    ("sessions: 2 ", "sessions: 0 ", "hypervisor.sessions", "from 1 to 16"),
    ("  poll: 5 ", "  replicate: 5 ", "hypervisor.replicate", "is not a key of this format"),
    ("node: HV-P1, agent", "node: HV-P2, agent", "fences[HV-P2].node", "did you mean 'HV-P1'?"),
]


@pytest.mark.parametrize(
    ("old", "new", "field", "words"),
    HYPERV_MISTAKES,
    ids=[f"{field}: {words}" for _, _, field, words in HYPERV_MISTAKES],
)
def test_mistakes_about_hyper_v(old: str, new: str, field: str, words: str, directory: Path) -> None:
    assert HYPERV.count(old) == 1
    (directory / "dr-ca.crt").chmod(0o644)
    (mistake,) = mistakes_of(HYPERV.replace(old, new), directory)
    assert mistake.field == field
    assert words in mistake.message


def test_basic_authentication_needs_tls(directory: Path) -> None:
    text = HYPERV.replace("negotiate ", "basic ").replace("tls: true", "tls: false")
    found = mistakes_of(text, directory)
    assert {mistake.field for mistake in found} == {"hypervisor.nodes[HV-D1]", "hypervisor.nodes[HV-D2]"}
    assert "Basic authentication without TLS" in found[0].message


def test_all_mistakes_are_named_at_once_in_the_order_of_their_lines(directory: Path) -> None:
    text = LIBVIRT.replace("per_node: 4 ", "per_node: 0 ").replace("answers: ping", "answers: x")
    found = mistakes_of(text.replace("agent: ipmi", "agent: ipmy"), directory)
    assert [mistake.field for mistake in found] == ["agent.per_node", "hypervisor.answers", "fences[p1].agent"]


@pytest.mark.parametrize("name", ["replication.key", "dr.key", "bmc.secret"])
def test_a_secret_that_everybody_may_read(name: str, directory: Path) -> None:
    (directory / name).chmod(0o644)
    for mistake in mistakes_of(LIBVIRT, directory):
        assert (
            f"the secret's file {directory / name} has the mode 0644, open to everybody: chmod 600" in mistake.message
        )


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty; expected one secret"), (b"\xff\xfe", "is not UTF-8 text"), (b"x" * 70_000, "is too long")],
)
def test_a_secret_that_is_none(content: bytes, words: str, directory: Path) -> None:
    (directory / "replication.key").write_bytes(content)
    (mistake,) = mistakes_of(LIBVIRT, directory)
    assert (mistake.field, words in mistake.message) == ("hypervisor.key_file", True)


def test_a_file_that_is_none(directory: Path) -> None:
    with pytest.raises(SiteFileError, match=r"nowhere\.yaml:line 1: file: cannot be read: No such file"):
        load_site_file(directory / "nowhere.yaml")
    (mistake,) = mistakes_of("", directory)
    assert mistake.message == "is empty; expected site and hypervisor"
    (mistake,) = mistakes_of("- a\n", directory)
    assert mistake.message == "is a list; expected a mapping with site, agent, hypervisor, fences"


def test_a_site_that_neither_sends_nor_receives_needs_no_key(directory: Path) -> None:
    text = LIBVIRT[: LIBVIRT.index("  listen:")] + "  inject: agent\n"
    file = load(text, directory)
    assert isinstance(file.hypervisor, LibvirtSite)
    assert file.hypervisor.key == ""
