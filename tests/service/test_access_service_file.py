"""Service files: what they say, and every mistake with its line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from certificates_for_tests import Authority
from failover_orch.domain import AccessRole, Grant
from failover_orch.errors import ServiceFileError
from failover_orch.service.access import AttemptLimit, ServiceFile, is_loopback, load_service_file
from failover_orch.service.access import service_file as module

WHOLE = """\
listen: 0.0.0.0:8443
tls:
  certificate: server.crt
  key: server.key
  client_ca: clients.pem
proxies: [10.0.0.5, "10.1.0.0/16"]
oidc:
  issuer: https://sso.example/realms/dr
  audience: failover-orch
  name_claim: preferred_username
  roles_claim: realm_access.roles
  algorithms: [ES256]
  grants:
    - {value: dr-operators, role: operator, sites: [dr], plans: [erp]}
    - {value: dr-operators, role: viewer}
    - {value: dr-admins, role: administrator}
certificates:
  - {name: agent.dr.example, role: site_agent, sites: [dr]}
limits:
  failures: 5
  failure_every: 2.5
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    Authority(tmp_path, "clients")
    Authority(tmp_path, "ours").signed("server")

    def written(text: str) -> Path:
        path = tmp_path / "service.yaml"
        path.write_text(text)
        return path

    return written


def test_a_service_file_says_all_of_it(write: Callable[[str], Path], tmp_path: Path) -> None:
    file = load_service_file(write(WHOLE))
    assert (file.host, file.port, file.proxies) == ("0.0.0.0", 8443, ("10.0.0.5", "10.1.0.0/16"))
    assert file.tls is not None
    assert (file.tls.key, file.tls.client_ca) == (tmp_path / "server.key", tmp_path / "clients.pem")
    assert file.oidc is not None
    assert (file.oidc.issuer, file.oidc.audience) == ("https://sso.example/realms/dr", "failover-orch")
    assert (file.oidc.name_claim, file.oidc.roles_claim) == ("preferred_username", "realm_access.roles")
    assert file.oidc.algorithms == ("ES256",)
    assert {each.value: each.grants for each in file.oidc.grants} == {
        "dr-operators": (Grant(AccessRole.OPERATOR, ("dr",), ("erp",)), Grant(AccessRole.VIEWER)),
        "dr-admins": (Grant(AccessRole.ADMINISTRATOR),),
    }
    assert file.certificates == {"agent.dr.example": (Grant(AccessRole.SITE_AGENT, ("dr",)),)}
    assert file.attempts == AttemptLimit(5, 2.5)


def test_what_is_left_out_is_as_without_a_file(write: Callable[[str], Path]) -> None:
    assert load_service_file(write("listen: 127.0.0.1:8080\n")) == ServiceFile()


def test_reading_is_never_open_by_a_file(write: Callable[[str], Path]) -> None:
    with pytest.raises(ServiceFileError, match="open_reading: is not a key of this format"):
        load_service_file(write("open_reading: true\n"))


@pytest.mark.parametrize(
    ("replaced", "by", "mistake"),
    [
        ("0.0.0.0:8443", "8443", "1: listen: is '8443'; expected address:port"),
        ("0.0.0.0:8443", "0.0.0.0:99999", "1: listen: is '0.0.0.0:99999'; expected a port of at most 65535"),
        ("server.crt", "none.crt", "3: tls.certificate: .*none.crt' is not there"),
        ("  client_ca: clients.pem\n", "", "16: certificates: needs what signs them: expected tls.client_ca"),
        ("10.0.0.5", "proxy.example", "6: proxies: is 'proxy.example'; expected an address or a network"),
        (
            "https://sso",
            "http://sso",
            "8: oidc.issuer: is 'http://sso.example/realms/dr'; expected the provider's https",
        ),
        ("  audience: failover-orch\n", "", "7: oidc: is missing|7: oidc.audience: is missing"),
        ("[ES256]", "[HS256]", "12: oidc.algorithms: is 'HS256'; expected one of RS256, ES256, EdDSA"),
        ("[ES256]", "[none]", "12: oidc.algorithms: is 'none'"),
        ("role: operator", "role: operater", "14: .*role: is 'operater'; expected one of .*did you mean 'operator'"),
        ("role: site_agent, sites: [dr]", "role: site_agent", "18: .*role: site_agent is for one site"),
        ("sites: [dr], plans: [erp]", 'sites: ["*"]', "14: .*sites.* is '.'; expected up to 80 letters"),
        ("failures: 5", "failures: 0", "20: limits.failures: is '0'; expected a whole number from 1 to 1000"),
        ("issuer:", "isuer:", "8: oidc.isuer: is not a key of this format; did you mean 'issuer'"),
    ],
)
def test_each_mistake_has_its_line(write: Callable[[str], Path], replaced: str, by: str, mistake: str) -> None:
    assert replaced in WHOLE
    path = write(WHOLE.replace(replaced, by, 1))
    with pytest.raises(ServiceFileError) as told:
        load_service_file(path)
    assert any(re.search(f"line {mistake}", str(each)) for each in told.value.mistakes), str(told.value)


def test_a_key_open_to_everybody_is_a_mistake(write: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "server.key").chmod(0o644)
    with pytest.raises(ServiceFileError, match=r"tls.key: .*open to everybody: chmod 600"):
        load_service_file(write(WHOLE))


@pytest.mark.parametrize("text", ["", "[]", "listen", "a: b: c"])
def test_a_file_that_is_none_is_said(write: Callable[[str], Path], text: str) -> None:
    with pytest.raises(ServiceFileError):
        load_service_file(write(text))


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ServiceFileError, match="cannot be read"):
        load_service_file(tmp_path / "none.yaml")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_a_loopback_address_is_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example", ""])
def test_what_others_reach_is_no_loopback_address(host: str) -> None:
    assert not is_loopback(host)


def keys_of_the_code() -> set[str]:
    lists = ("ROOT_KEYS", "TLS_KEYS", "OIDC_KEYS", "OIDC_GRANT_KEYS", "CERTIFICATE_KEYS", "LIMIT_KEYS")
    return {key for name in lists for key in getattr(module, name)}


def test_every_key_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "service-files.md").read_text()
    keys = set(re.findall(r"^\| `(\w+)` ", text, re.MULTILINE))
    assert keys == keys_of_the_code()
