"""A service's file: one YAML file that says where it listens, how it proves who calls, and what they are granted."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from failover_orch.domain import AccessRole, Grant
from failover_orch.errors import ConfigError, ServiceFileError
from failover_orch.secret_files import read_secret
from failover_orch.service.access.attempts import AttemptLimit
from failover_orch.service.access.key_source import ALGORITHMS
from failover_orch.service.access.oidc import ClaimGrants, OidcSettings
from failover_orch.service.access.tls import TlsFiles
from failover_orch.yaml_reading import IDENTIFIER, Entry, Notes, Pattern, read_file

__all__ = ["ServiceFile", "is_loopback", "load_service_file"]

ROOT_KEYS = ("listen", "tls", "proxies", "oidc", "certificates", "limits")
TLS_KEYS = ("certificate", "key", "client_ca")
GRANT_KEYS = ("role", "sites", "plans")
OIDC_KEYS = ("issuer", "audience", "name_claim", "roles_claim", "algorithms", "ca_file", "grants")
OIDC_GRANT_KEYS = ("value", *GRANT_KEYS)
CERTIFICATE_KEYS = ("name", *GRANT_KEYS)
LIMIT_KEYS = ("failures", "failure_every")

_LISTEN = Pattern(re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s\[\]:]+):[0-9]{1,5}"), "address:port, such as 0.0.0.0:8443")
_MAX_PORT = 65_535
_MOST_FAILURES = 1_000
_LONGEST_EVERY_S = 3_600


@dataclass(frozen=True, slots=True)
class ServiceFile:
    """What a service file says; as it stands, what holds without one: API tokens alone, on the loopback address."""

    host: str = "127.0.0.1"
    port: int = 8080
    tls: TlsFiles | None = None
    proxies: tuple[str, ...] = ()
    """Addresses or networks of proxies that say where a call comes from."""
    oidc: OidcSettings | None = None
    certificates: Mapping[str, tuple[Grant, ...]] = field(default_factory=dict)
    attempts: AttemptLimit = field(default_factory=AttemptLimit)
    open_reading: bool = False
    """Anybody may look. Never in a file: a flag for demos, on a loopback address."""


def load_service_file(path: str | Path) -> ServiceFile:
    """Read a service file. Paths in it begin at its directory; files that it names are looked at right away.

    Raises:
        ServiceFileError: the file cannot be read or has mistakes; every one of them is listed.

    """
    directory = Path(path).absolute().parent
    return read_file(
        path,
        keys=ROOT_KEYS,
        expected="listen, tls, oidc or certificates",
        make=lambda root, notes: _read(root, directory, notes),
        error=ServiceFileError,
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on a host."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _read(root: Entry, directory: Path, notes: Notes) -> ServiceFile:
    default = ServiceFile()
    host, port = _listen(root, default)
    tls = _tls(root, directory)
    certificates = _certificates(root)
    if certificates and (tls is None or tls.client_ca is None) and not notes.mistakes:
        root.mistake("certificates", "needs what signs them: expected tls.client_ca")
    return ServiceFile(
        host=host,
        port=port,
        tls=tls,
        proxies=_proxies(root),
        oidc=_oidc(root, directory),
        certificates=certificates,
        attempts=_attempts(root, default.attempts),
    )


def _listen(root: Entry, default: ServiceFile) -> tuple[str, int]:
    text = root.text("listen", required=False, pattern=_LISTEN)
    if not text:
        return default.host, default.port
    host, _, port = text.rpartition(":")
    if int(port) > _MAX_PORT:
        root.mistake("listen", f"is {text!r}; expected a port of at most {_MAX_PORT}")
    return host.strip("[]"), int(port)


def _tls(root: Entry, directory: Path) -> TlsFiles | None:
    entry = root.entry("tls", TLS_KEYS)
    if entry is None:
        return None
    certificate = _file(entry, "certificate", directory)
    key = _file(entry, "key", directory)
    client_ca = _file(entry, "client_ca", directory, required=False)
    if key is not None:
        try:
            read_secret(key)
        except ConfigError as error:
            entry.mistake("key", str(error))
    return TlsFiles(certificate, key, client_ca) if certificate is not None and key is not None else None


def _proxies(root: Entry) -> tuple[str, ...]:
    found = root.texts("proxies", expected="a list of addresses or networks")
    for line, text in found:
        try:
            ipaddress.ip_network(text)
        except ValueError:
            expected = "an address or a network, such as 10.0.0.5 or 10.0.0.0/24"
            root.mistake("proxies", f"is {text!r}; expected {expected}", line=line)
    return tuple(text for _, text in found)


def _oidc(root: Entry, directory: Path) -> OidcSettings | None:
    entry = root.entry("oidc", OIDC_KEYS)
    if entry is None:
        return None
    default = OidcSettings("", "", ())
    return OidcSettings(
        issuer=_issuer(entry),
        audience=entry.text("audience", expected="the audience that tokens for this service have"),
        grants=tuple(
            ClaimGrants(value, grants)
            for value, grants in _grants(entry, "grants", "value", OIDC_GRANT_KEYS, required=True).items()
        ),
        name_claim=entry.text("name_claim", required=False) or default.name_claim,
        roles_claim=entry.text("roles_claim", required=False) or default.roles_claim,
        ca_file=_file(entry, "ca_file", directory, required=False),
        algorithms=_algorithms(entry) or default.algorithms,
    )


def _issuer(entry: Entry) -> str:
    expected = "the provider's https address, as its tokens have it"
    text = entry.text("issuer", expected=expected)
    try:
        parts = urlsplit(text)
        good = bool(parts.hostname) and (
            parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        )
    except ValueError:
        good = False
    if text and not good:
        entry.mistake("issuer", f"is {text!r}; expected {expected}")
    return text


def _algorithms(entry: Entry) -> tuple[str, ...]:
    found = entry.texts("algorithms", expected=f"a list of {', '.join(ALGORITHMS)}")
    for line, text in found:
        if text not in ALGORITHMS:
            entry.mistake("algorithms", f"is {text!r}; expected one of {', '.join(ALGORITHMS)}", line=line)
    return tuple(text for _, text in found)


def _certificates(root: Entry) -> dict[str, tuple[Grant, ...]]:
    return _grants(root, "certificates", "name", CERTIFICATE_KEYS)


def _grants(
    entry: Entry, key: str, label: str, keys: tuple[str, ...], *, required: bool = False
) -> dict[str, tuple[Grant, ...]]:
    """Grants by what stands under `label`; an entry more for the same adds to them."""
    found: dict[str, tuple[Grant, ...]] = {}
    for each in entry.entries(key, label, keys, required=required):
        name = each.text(label)
        grant = _grant(each)
        if name and grant is not None:
            found[name] = (*found.get(name, ()), grant)
    return found


def _grant(entry: Entry) -> Grant | None:
    before = len(entry.notes.mistakes)
    words = [role.name.lower() for role in AccessRole]
    role = AccessRole[entry.one_of("role", words, words[0], required=True).upper()]
    sites = tuple(text for _, text in entry.texts("sites", pattern=IDENTIFIER, expected="a list of sites"))
    plans = tuple(text for _, text in entry.texts("plans", pattern=IDENTIFIER, expected="a list of plans"))
    if role is AccessRole.SITE_AGENT and (len(sites) != 1 or plans) and len(entry.notes.mistakes) == before:
        entry.mistake("role", "site_agent is for one site: expected it in sites, and no plans")
    return Grant(role, sites, plans) if len(entry.notes.mistakes) == before else None


def _attempts(root: Entry, default: AttemptLimit) -> AttemptLimit:
    entry = root.entry("limits", LIMIT_KEYS)
    if entry is None:
        return default
    return AttemptLimit(
        burst=entry.integer("failures", 1, _MOST_FAILURES, default=default.burst),
        every_s=entry.number("failure_every", 0.1, _LONGEST_EVERY_S, default=default.every_s),
    )


def _file(entry: Entry, key: str, directory: Path, *, required: bool = True) -> Path | None:
    text = entry.text(key, required=required, expected="the path of a file")
    path = directory / text if text else None
    if path is not None and not path.is_file():
        entry.mistake(key, f"{str(path)!r} is not there, or is no file; expected the path of a file")
        return None
    return path
